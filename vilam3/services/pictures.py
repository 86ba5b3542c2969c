"""Pictures in JSON: lossless data URLs, so that a network elsewhere sees the very pixels."""

import base64
import binascii
import io
import re

from PIL import Image

from vilam3.data.limits import Limits
from vilam3.errors import DataError

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g);base64,", re.ASCII | re.IGNORECASE)
LIMITS = Limits()


def to_data_url(picture: Image.Image) -> str:
    """The picture as a PNG in a URL."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)  # size costs less than time between two services
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def from_data_url(url: str, *, where: str) -> Image.Image:
    """The picture of a data URL.

    Raises:
        DataError: it is no PNG or JPEG in base64, or damaged.
        TooLargeError: more pixels than the limits allow.
    """
    found = _DATA_URL.match(url)
    if found is None:
        raise DataError(f"{where}: only data URLs (data:image/png;base64,...) are read here; send the picture itself")
    try:
        content = base64.b64decode(url[found.end() :], validate=True)
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        LIMITS.check_pixels(picture.height, picture.width, where=where)
        picture.load()
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the picture is damaged; encode it again") from error
    return picture
