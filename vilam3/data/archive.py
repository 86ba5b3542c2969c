"""Zip archives unpacked into a private folder, within limits and nowhere else.

Refused: names that lead out of the folder, links, encryption, archives within archives, more bytes or files than the
limits allow, as declared and as found. Messages name members by number: their names may hold a patient's.
"""

import contextlib
import errno
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vilam3.data.limits import MIB, Limits
from vilam3.errors import ArtifactError, DataError, TooLargeError
from vilam3.scratch import scratch

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
CHUNK_BYTES = 1 << 18
ENCRYPTED = 0x1
_CUT = "it is damaged or was cut in transfer; send it again"


def is_zip(head: bytes) -> bool:
    """Whether a file starts like a zip archive."""
    return head.startswith(ZIP_MAGICS)


@contextlib.contextmanager
def unpacked(path: Path, *, limits: Limits, where: str) -> Iterator[Path]:
    """Yield a temporary folder with the archive's files; it is gone afterwards.

    Raises:
        DataError: damaged, truncated, encrypted, nested or unsafe.
        TooLargeError: beyond the limits.
        ArtifactError: the disk is full.
    """
    with scratch() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = _checked_members(archive, path.stat().st_size, limits, where)
                _unpack(archive, members, folder, limits, where)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
            raise DataError(f"{where}: not readable as a zip archive; {_CUT}") from error
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise ArtifactError(
                    f"{where}: no room to unpack it below {tempfile.gettempdir()}; free some"
                ) from error
            raise DataError(f"{where}: not readable as a zip archive; {_CUT}") from error
        yield folder


def _checked_members(
    archive: zipfile.ZipFile, packed_bytes: int, limits: Limits, where: str
) -> list[tuple[int, zipfile.ZipInfo]]:
    """Number and directory entry of every file, after everything the directory says has been checked."""
    members = [(number, member) for number, member in enumerate(archive.infolist(), start=1) if not member.is_dir()]
    if not members:
        raise DataError(f"{where}: the archive holds no file; put the images of one study into it")
    limits.check_files(len(members), where=where)
    declared = sum(member.file_size for _, member in members)
    limits.check_bytes(max(declared, 1), where=f"{where} (unpacked)")
    if declared > limits.max_zip_ratio * max(packed_bytes, 1) and declared > MIB:
        raise TooLargeError(
            f"{where}: it would unpack to more than {limits.max_zip_ratio:g} times its size; "
            "images never shrink that much, so it is refused as a zip bomb"
        )
    for number, member in members:
        _check_member(member, limits, f"{where}: file {number} in the archive")
    return members


def _check_member(member: zipfile.ZipInfo, limits: Limits, where: str) -> None:
    if member.flag_bits & ENCRYPTED:
        raise DataError(f"{where} is encrypted; send the archive without a password")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(f"{where} is a link, not a file; pack the files themselves")
    name = member.orig_filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in parts:
        raise DataError(f"{where} has a name that leads out of the archive; pack it again with plain names")
    if len(parts) - 1 > limits.max_depth:
        raise TooLargeError(f"{where} lies {len(parts) - 1} folders deep, more than {limits.max_depth}; pack it flat")


def _unpack(
    archive: zipfile.ZipFile, members: list[tuple[int, zipfile.ZipInfo]], folder: Path, limits: Limits, where: str
) -> None:
    left = min(limits.max_bytes, sum(member.file_size for _, member in members))
    for number, member in members:
        place = f"{where}: file {number} in the archive"
        target = _target(folder, member.filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as packed, target.open("xb") as out:
            while chunk := packed.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise TooLargeError(f"{place} unpacks to more than it declares; it is refused as a zip bomb")
                out.write(chunk)
        with target.open("rb") as stream:
            if is_zip(stream.read(4)):
                raise DataError(f"{place} is itself an archive; unpack it first")


def _target(folder: Path, name: str) -> Path:
    """Where a member goes: its own name in harmless characters, made unique."""
    parts = [re.sub(r"[^A-Za-z0-9._+-]", "_", part)[-100:].lstrip(".") or "_" for part in PurePosixPath(name).parts]
    target = folder.joinpath(*parts)
    copies = 0
    while target.exists() or any(parent.is_file() for parent in target.parents if parent != folder):
        copies += 1
        target = folder / f"copy{copies}" / "_".join(parts)
    return target
