"""Whatever bytes arrive, a reader gives a study or a `DataError`; nothing else comes out."""

import io
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGExtended12Bit, JPEGLosslessSV1

from tests.unit.data.dicom_files import SECRETS, enhanced, image, real_file, save
from vilam3.data.intake import Limits, read_study
from vilam3.data.render import views
from vilam3.errors import DataError

LIMITS = Limits(max_bytes=8 << 20, max_voxels=1 << 22, max_pixels=1 << 20)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "insert", "zero", "max"]), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, changes: list[tuple[float, str, int]], *, head: int) -> bytes:
    """Apply edits, half of them within the first `head` bytes, where the structure is."""
    changed = bytearray(data)
    for number, (share, kind, value) in enumerate(changes):
        place = int(share * (min(head, len(changed)) if number % 2 == 0 else len(changed)))
        if kind == "flip" and place < len(changed):
            changed[place] ^= value or 1
        elif kind == "cut" and number % 2:
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = bytes([value]) * (value % 9 + 1)
        else:
            changed[place : place + 4] = (b"\0" if kind == "zero" else b"\xff") * len(changed[place : place + 4])
    return bytes(changed)


def try_to_read(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        try:
            study = read_study(path, limits=LIMITS)
            said = " ".join(study.warnings)
            assert all(picture.mode == "RGB" for picture in views(study))
        except DataError as error:
            said = str(error)
        assert not any(secret in said for secret in SECRETS)


@cache
def dicom_bytes(kind: str) -> bytes:
    pixels = np.arange(64, dtype=np.int16).reshape(8, 8)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "enhanced":
            return enhanced(Path(folder, "x.dcm"), np.stack([pixels, pixels + 1, pixels + 2])).read_bytes()
        place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        dataset = image(pixels, tags={**place, "PixelSpacing": [1, 1], "RescaleSlope": 1, "RescaleIntercept": -5})
        return save(dataset, Path(folder, "x.dcm")).read_bytes()


@cache
def jpeg_bytes(*, lossless: bool) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 4096, (24, 40)).astype(np.uint16)
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    dataset = image(pixels, tags={**place, "BitsStored": 12, "HighBit": 11})
    dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(pixels, lossless=lossless, bitspersample=12)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1 if lossless else JPEGExtended12Bit
    with tempfile.TemporaryDirectory() as folder:
        return save(dataset, Path(folder, "x.dcm")).read_bytes()


@FUZZ
@given(st.sampled_from(["classic", "enhanced"]), edits)
def test_mutated_dicom(kind: str, changes: list[tuple[float, str, int]]) -> None:
    try_to_read(mutate(dicom_bytes(kind), changes, head=1200), "x.dcm")


@FUZZ
@given(st.sampled_from(["MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"]), edits)
def test_mutated_real_dicom(name: str, changes: list[tuple[float, str, int]]) -> None:
    try_to_read(mutate(real_file(name).read_bytes(), changes, head=1500), "x.dcm")


@FUZZ
@given(
    st.sampled_from(["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "lossless JPEG", "12-bit JPEG"]),
    edits,
)
def test_mutated_compressed_dicom(name: str, changes: list[tuple[float, str, int]]) -> None:
    """Decoders are written in C: a crash would end the test run."""
    data = jpeg_bytes(lossless=name == "lossless JPEG") if "JPEG" in name else real_file(name).read_bytes()
    try_to_read(mutate(data, changes, head=2_000), "x.dcm")


@FUZZ
@given(st.booleans(), edits)
def test_mutated_nifti(second: bool, changes: list[tuple[float, str, int]]) -> None:
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    try_to_read(mutate(kind(np.zeros((3, 4, 5), dtype=np.int16), np.eye(4)).to_bytes(), changes, head=352), "x.nii")


@FUZZ
@given(edits)
def test_mutated_zip(changes: list[tuple[float, str, int]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("Doe/a.dcm", dicom_bytes("classic"))
    try_to_read(mutate(buffer.getvalue(), changes, head=60), "x.zip")


@FUZZ
@given(st.binary(max_size=300), st.sampled_from(["x.dcm", "x.nii", "x.nii.gz", "x.png", "x.zip", "x"]))
def test_any_bytes_under_any_name(data: bytes, name: str) -> None:
    try_to_read(data, name)
