"""JPEG frames beyond 8 bits are decoded to the very values that were stored."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

from tests.unit.data.dicom_files import image, real_file, save
from vilam3.data import dicom_jpeg
from vilam3.data.dicom_file import read_frames, read_header
from vilam3.data.intake import read_study
from vilam3.data.limits import Limits
from vilam3.errors import DataError

PLACE = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}


@pytest.mark.parametrize(("syntax", "predictor"), [(JPEGLosslessSV1, 1), (JPEGLossless, 4)])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg_loses_nothing(tmp_path: Path, syntax: str, predictor: int, bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    values = np.random.default_rng(bits).integers(0, 2**bits, (24, 40)).astype(kind)
    stream = imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=bits)
    dataset = image(values, tags={**PLACE, "RescaleSlope": 1, "RescaleIntercept": 0, "BitsStored": bits})
    dataset.HighBit, dataset.PixelData = bits - 1, encapsulate([stream])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    (volume,) = read_study(save(dataset, tmp_path / "x.dcm")).volumes
    np.testing.assert_array_equal(volume.voxels_XYZ[::-1, ::-1, 0].T, values)


def test_12_bit_jpeg_of_a_real_scanner_is_decoded() -> None:
    path = real_file("JPGExtended.dcm")
    limits = Limits()
    header = read_header(path, limits=limits, where="x")
    frames = read_frames(path, header, limits=limits, where="x")
    assert (frames.shape, int(frames.min()), int(frames.max())) == ((1, 1024, 256), 0, 264)
    assert float(frames.mean()) == pytest.approx(14.38, abs=0.05)  # of libjpeg's own decoder: rounding may differ by 1


def test_a_cut_stream_is_refused_in_our_words(tmp_path: Path) -> None:
    stream = imagecodecs.jpeg8_encode(np.zeros((24, 40), np.uint16), lossless=True, bitspersample=16)
    dataset = image(np.zeros((24, 40), np.uint16), tags=PLACE)
    dataset.PixelData = encapsulate([stream[:40]])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(DataError, match="damaged"):
        read_study(save(dataset, tmp_path / "x.dcm"))


def test_the_decoder_is_known_once() -> None:
    dicom_jpeg.install()
    assert JPEGLosslessSV1Decoder.available_plugins.count(dicom_jpeg.LABEL) == 1
    assert dicom_jpeg.is_available(JPEGLosslessSV1)
