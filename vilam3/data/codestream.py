"""Height and width that a JPEG, JPEG-LS or JPEG 2000 stream states for itself, without decoding it."""

import struct

J2K_START = b"\xff\x4f\xff\x51"  # start of codestream, then the size marker
JPEG_START = b"\xff\xd8"
JPEG_2000_BOXES = b"\x00\x00\x00\x0cjP  "
# Start-of-frame markers: JPEG C0-CF without the three that mean something else, and JPEG-LS.
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


def codestream_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns, or None where the stream is none of these or too short to say."""
    try:
        if stream.startswith((JPEG_2000_BOXES, J2K_START)):
            return _jpeg_2000_size(stream)
        return _jpeg_size(stream) if stream.startswith(JPEG_START) else None
    except (struct.error, IndexError):
        return None


def _jpeg_2000_size(stream: bytes) -> tuple[int, int] | None:
    start = stream.find(J2K_START)
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
    return bottom - top, right - left


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 4 <= len(stream):
        if stream[place] != 0xFF:  # noqa: PLR2004 - every marker starts with it
            return None
        marker = stream[place + 1]
        if marker == 0xFF:  # noqa: PLR2004 - fill byte
            place += 1
            continue
        if marker in FRAME_MARKERS:
            rows, columns = struct.unpack_from(">2H", stream, place + 5)
            return rows, columns
        (length,) = struct.unpack_from(">H", stream, place + 2)
        place += 2 + max(length, 2)
    return None
