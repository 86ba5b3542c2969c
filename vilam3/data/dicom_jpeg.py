"""JPEG in DICOM beyond 8 bits: lossless and 12-bit frames, by libjpeg-turbo (`imagecodecs`) as a decoder of pydicom.

pydicom finds Pillow for 8 bits, CharLS for JPEG-LS and OpenJPEG for JPEG 2000 by itself.
"""

import imagecodecs
import numpy as np
from pydicom.pixels.decoders import JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder
from pydicom.pixels.decoders.base import DecodeRunner

LABEL = "imagecodecs"
DECODERS = (JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder)
DECODER_DEPENDENCIES = {decoder.UID: ("imagecodecs>=2026.3",) for decoder in DECODERS}  # pydicom asks for this name


def is_available(uid: str) -> bool:
    """Whether this module decodes a transfer syntax; pydicom asks."""
    return uid in DECODER_DEPENDENCIES


def _decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """One frame; pydicom calls this by its name."""
    values = np.ascontiguousarray(imagecodecs.jpeg8_decode(stream))
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def install() -> None:
    """Make pydicom know it; harmless when it does."""
    for decoder in DECODERS:
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "_decode_frame"))
