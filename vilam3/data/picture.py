"""PNG and JPEG in: a radiograph, a slice somebody exported, a microscopy picture. Knows no modality.

The size is checked from the header before a pixel is decoded.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vilam3.data.limits import Limits
from vilam3.errors import DataError, TooLargeError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
_CUT = "the file is damaged or was cut in transfer; send it again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        grey_HW: Grey levels; uint16 only where the file holds 16 bits a pixel.
        rgb_HWC: The colours, or None where all channels agree.
    """

    grey_HW: NDArray[np.uint8] | NDArray[np.uint16]
    rgb_HWC: NDArray[np.uint8] | None = None


def is_picture(head: bytes) -> bool:
    """Whether a file starts like a PNG or JPEG."""
    return head.startswith((PNG_MAGIC, JPEG_MAGIC))


def read_picture(path: Path, *, limits: Limits, where: str) -> Picture:
    """Decode a PNG or JPEG, turned as its EXIF orientation says.

    Args:
        path: The file.
        limits: Checked against the header, before decoding.
        where: How messages name the file.

    Raises:
        DataError: damaged, truncated or another format.
        TooLargeError: more pixels than the limits allow.
    """
    limits.check_bytes(path.stat().st_size, where=where)
    try:
        with warnings.catch_warnings():
            # Pillow's own bound is a warning below twice its limit; ours is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                limits.check_pixels(image.height, image.width, where=where)
                return _decode(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            f"{where}: more pixels than the limit of {limits.max_pixels:,}; scale the picture down"
        ) from error
    except Exception as error:  # decoders of hostile bytes raise anything; this is the boundary
        raise DataError(f"{where}: not readable as a PNG or JPEG picture; {_CUT}") from error


def _decode(image: Image.Image) -> Picture:
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        return Picture(grey_HW=np.clip(np.asarray(turned), 0, 2**16 - 1).astype(np.uint16))
    if turned.mode in {"1", "L", "LA"}:
        return Picture(grey_HW=np.asarray(turned.convert("L")))
    rgb = turned.convert("RGB")
    rgb_HWC = np.asarray(rgb)
    if (rgb_HWC[..., 0] == rgb_HWC[..., 1]).all() and (rgb_HWC[..., 0] == rgb_HWC[..., 2]).all():
        return Picture(grey_HW=np.ascontiguousarray(rgb_HWC[..., 0]))
    return Picture(grey_HW=np.asarray(rgb.convert("L")), rgb_HWC=rgb_HWC)
