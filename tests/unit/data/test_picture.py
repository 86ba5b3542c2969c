"""PNG and JPEG: size before pixels, EXIF, depths, colour."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilam3.data.intake import Limits, read_study
from vilam3.data.picture import Picture, read_picture
from vilam3.errors import DataError, TooLargeError


def read(path: Path) -> Picture:
    return read_picture(path, limits=Limits(), where=path.name)


def huge_png(path: Path, *, side: int) -> Path:
    """A valid grey PNG of side x side black pixels in a few hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side if side < 1000 else 100)) + packer.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [20_000, 9_000, 60_000])
def test_pictures_beyond_the_limit_are_refused_from_the_header(tmp_path: Path, side: int) -> None:
    with pytest.raises(TooLargeError, match=r"more (than the limit|pixels)") as refused:
        read_study(huge_png(tmp_path / "x.png", side=side))
    assert refused.value.http_status == 413
    assert refused.value.exit_code == 2


def test_16_bit_grey_stays_16_bit(tmp_path: Path) -> None:
    pixels = np.array([[0, 300], [40000, 65535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    grey = read(tmp_path / "x.png").grey_HW
    assert grey.dtype == np.uint16
    np.testing.assert_array_equal(grey, pixels)


def test_grey_in_colour_channels_is_grey_and_real_colour_is_kept(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), (9, 9, 9)).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 3), (200, 10, 10, 128)).save(tmp_path / "red.png")
    Image.new("RGB", (4, 3), (0, 200, 0)).convert("P").save(tmp_path / "palette.png")
    Image.new("1", (4, 3), 1).save(tmp_path / "bits.png")
    assert read(tmp_path / "grey.png").rgb_HWC is None
    assert read(tmp_path / "grey.png").grey_HW[0, 0] == 9
    red = read(tmp_path / "red.png").rgb_HWC
    assert red is not None
    assert red.shape == (3, 4, 3)
    assert red[0, 0].tolist() == [200, 10, 10]
    assert read(tmp_path / "palette.png").rgb_HWC is not None
    assert read(tmp_path / "bits.png").grey_HW[0, 0] == 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("L", (8, 4), 0)
    image.paste(255, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    grey = read(tmp_path / "x.jpg").grey_HW
    assert grey.shape == (8, 4)
    assert grey[0, 0] > 200
    assert grey[7, 0] < 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_pictures_are_refused(tmp_path: Path, kind: str) -> None:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(buffer, kind)
    cut = tmp_path / "x"
    for share in (0.02, 0.2, 0.6, 0.95):
        cut.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
        with pytest.raises(DataError, match="cut in transfer"):
            read_study(cut)


def test_other_picture_formats_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "x.gif")
    (tmp_path / "x.gif").rename(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"named \.png, but its content is not"):
        read_study(tmp_path / "x.png")


def test_the_name_decides_the_modality_last(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "cxr_1.png")
    Image.new("L", (4, 4)).save(tmp_path / "photo.png")
    assert read_study(tmp_path / "cxr_1.png").modality == "CXR"
    assert read_study(tmp_path / "photo.png").modality == "Unknown"
    assert read_study(tmp_path / "photo.png", modality="US").modality == "US"
