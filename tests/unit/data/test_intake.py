"""Folders, archives and everything that is not what it says."""

import errno
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.unit.data import dicom_files as make
from vilam3.data.intake import Limits, read_study
from vilam3.data.nifti import write_label_map, write_volume
from vilam3.data.study import Volume
from vilam3.errors import ArtifactError, DataError, TooLargeError

LEVELS = {"t1": 1.0, "t1ce": 2.0, "t2": 3.0, "flair": 4.0}


def volume(level: float, *, shift_mm: float = 0.0) -> Volume:
    affine = np.eye(4)
    affine[0, 3] = shift_mm
    return Volume(voxels_XYZ=np.full((3, 4, 5), level, dtype=np.float32), affine_RAS=affine)


def brain(folder: Path, *, names: Mapping[str, str] | None = None, shifted: str = "") -> Path:
    folder.mkdir()
    for sequence, level in LEVELS.items():
        name = (names or {}).get(sequence, f"case_7_{sequence}")
        write_volume(folder / f"{name}.nii.gz", volume(level, shift_mm=2.0 if sequence == shifted else 0.0))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"t1": "mri_brain_T1", "t1ce": "mri_brain_T1Gd", "t2": "mri_brain_T2", "flair": "mri_brain_FLAIR"},
        {"t1": "BraTS-GLI-1-t1n", "t1ce": "BraTS-GLI-1-t1c", "t2": "BraTS-GLI-1-t2w", "flair": "BraTS-GLI-1-t2f"},
        {"t1": "t1", "t1ce": "t1c", "t2": "t2", "flair": "flair"},
    ],
)
def test_four_sequences_come_in_the_order_the_expert_expects(tmp_path: Path, names: dict[str, str]) -> None:
    """t1c, t1, t2, flair: not the order of the names, in which t1 comes before t1ce."""
    study = read_study(brain(tmp_path / "b", names=names))
    assert study.modality == "MRI"
    assert [one.sequence for one in study.volumes] == ["t1c", "t1", "t2", "flair"]
    assert [float(one.voxels_XYZ[0, 0, 0]) for one in study.volumes] == [2, 1, 3, 4]


def test_a_segmentation_beside_the_sequences_is_no_image(tmp_path: Path) -> None:
    folder = brain(tmp_path / "b")
    write_label_map(folder / "case_7_seg.nii.gz", np.ones((3, 4, 5), dtype=np.uint8), like=volume(0))
    (folder / "notes.txt").write_text("x")
    study = read_study(folder)
    assert len(study.volumes) == 4
    assert study.warnings == ("1 files are not images and were passed over",)


def test_sequences_on_different_grids_and_incomplete_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the t2 and t1c volumes lie on different grids"):
        read_study(brain(tmp_path / "shifted", shifted="t2"))
    folder = brain(tmp_path / "three")
    (folder / "case_7_t2.nii.gz").unlink()
    with pytest.raises(DataError, match="exactly the four MR sequences"):
        read_study(folder)
    with pytest.raises(DataError, match="four MR sequences cannot be read as CT"):
        read_study(brain(tmp_path / "ct"), modality="CT")


def test_modality_of_a_lone_volume_is_the_callers_then_the_names_then_told_by_hu(tmp_path: Path) -> None:
    air = Volume(voxels_XYZ=np.array([-1000.0, 40, 300]).reshape(1, 1, 3).astype(np.float32), affine_RAS=np.eye(4))
    write_volume(tmp_path / "scan.nii.gz", air)
    write_volume(tmp_path / "mri_scan.nii.gz", air)
    write_volume(tmp_path / "no_hu.nii.gz", volume(9))
    assert read_study(tmp_path / "scan.nii.gz").modality == "CT"
    assert read_study(tmp_path / "scan.nii.gz", modality="MRI").modality == "MRI"
    assert read_study(tmp_path / "mri_scan.nii.gz").modality == "MRI"
    doubtful = read_study(tmp_path / "no_hu.nii.gz")
    assert doubtful.modality == "MRI"
    assert "MRI is assumed" in doubtful.warnings[0]
    with pytest.raises(DataError, match="a volume cannot be read as CXR"):
        read_study(tmp_path / "scan.nii.gz", modality="CXR")


def archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """A zip of a CT series in a folder."""
    folder = make.series(tmp_path / "s", np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    return archive(tmp_path / "study.zip", {f"CT Doe/{file.name}": file.read_bytes() for file in folder.iterdir()})


def test_a_zip_equals_its_folder_and_leaves_nothing_behind(tmp_path: Path, zipped: Path) -> None:
    study = read_study(zipped)
    assert study.num_slices == 4
    assert study.digest == read_study(tmp_path / "s").digest
    brain_zip = archive(tmp_path / "b.zip", {f.name: f.read_bytes() for f in brain(tmp_path / "b").iterdir()})
    assert read_study(brain_zip).digest == read_study(tmp_path / "b").digest


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_truncated_zip_is_refused(zipped: Path, share: float) -> None:
    data = zipped.read_bytes()
    zipped.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="not readable as a zip archive; it is damaged or was cut"):
        read_study(zipped)


def test_a_zip_with_a_flipped_byte_is_refused(zipped: Path) -> None:
    data = bytearray(zipped.read_bytes())
    data[200] ^= 0xFF
    zipped.write_bytes(data)
    with pytest.raises(DataError):
        read_study(zipped)


def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "bomb.zip", {"x.dcm": bytes(50 << 20)})
    with pytest.raises(TooLargeError, match="zip bomb"):
        read_study(bomb)
    with pytest.raises(TooLargeError, match=r"study|bomb\.zip \(unpacked\)"):
        read_study(bomb, limits=Limits(max_bytes=1 << 20))


def test_a_zip_bomb_is_refused_by_what_it_unpacks_to(tmp_path: Path) -> None:
    """The directory claims one kilobyte; the member unpacks to five megabytes."""
    bomb = archive(tmp_path / "bomb.zip", {"x.dcm": bytes(5 << 20)})
    data = bytearray(bomb.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + offset, 1024)
    bomb.write_bytes(data)
    with pytest.raises(DataError):
        read_study(bomb)


def encrypt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


def test_encrypted_nested_linked_and_empty_archives_are_refused(tmp_path: Path, zipped: Path) -> None:
    nested = archive(tmp_path / "nested.zip", {"inner.bin": zipped.read_bytes()})
    with pytest.raises(DataError, match="file 1 in the archive is itself an archive"):
        read_study(nested)
    with pytest.raises(DataError, match="holds no file"):
        read_study(archive(tmp_path / "empty.zip", {}))
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as out:
        out.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        read_study(tmp_path / "link.zip")
    encrypt(zipped)
    with pytest.raises(DataError, match="is encrypted"):
        read_study(zipped)


@pytest.mark.parametrize(
    "name", ["../../escape.dcm", "/etc/escape.dcm", "a/../../escape.dcm", "..\\escape.dcm", "C:/x"]
)
def test_names_that_lead_out_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    bad = tmp_path / "deep" / "bad.zip"
    bad.parent.mkdir()
    archive(bad, {name: b"x"})
    with pytest.raises(DataError, match="leads out of the archive"):
        read_study(bad)
    assert not list(tmp_path.rglob("escape*"))


def test_too_many_files_and_folders_too_deep_are_refused(tmp_path: Path, zipped: Path) -> None:
    with pytest.raises(TooLargeError, match="4 files, more than the limit of 3"):
        read_study(zipped, limits=Limits(max_files=3))
    with pytest.raises(TooLargeError, match="4 files, more than the limit of 3"):
        read_study(tmp_path / "s", limits=Limits(max_files=3))
    deep = archive(tmp_path / "deep.zip", {"a/" * 20 + "x.dcm": b"x"})
    with pytest.raises(TooLargeError, match="20 folders deep"):
        read_study(deep)


def test_a_full_disk_is_said_to_be_full(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(ArtifactError, match="no room to unpack"):
        read_study(zipped)
    assert zipped.exists()


def test_messages_about_members_do_not_tell_their_names(tmp_path: Path) -> None:
    bad = archive(tmp_path / "study.zip", {"Doe Planted/Doe.dcm": b"no image at all"})
    with pytest.raises(DataError, match=r"^study\.zip: file 1 of 1: named \.dcm") as refused:
        read_study(bad)
    assert "Doe" not in str(refused.value)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "text.dcm": (b"Dear colleague, please find enclosed\n" * 20, r"named \.dcm, but its content is not"),
    "text.zip": (b"Dear colleague", r"an archive|named \.zip"),
    "empty.dcm": (b"", r"empty \(0 bytes\)"),
    "empty.nii": (b"", r"empty \(0 bytes\)"),
    "empty.png": (b"", r"empty \(0 bytes\)"),
    "unknown": (b"\x00" * 600, "its content is none of the kinds"),
    "packed.gz": (b"\x1f\x8b" + b"\x00" * 50, "its content is none of the kinds"),
    "magic.dcm": (b"\x00" * 128 + b"DICM", "holds no DICOM image|not readable as DICOM"),
    "noise.dcm": (b"\x00" * 128 + b"DICM" + b"\xff" * 500, "holds no DICOM image|not readable as DICOM"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_not_what_they_say_are_refused_alone_and_in_a_folder(tmp_path: Path, name: str) -> None:
    data, words = BAD_FILES[name]
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / name).write_bytes(data)
    for place in (tmp_path / "f" / name, tmp_path / "f"):
        with pytest.raises(DataError, match=f"{words}|holds no image") as refused:
            read_study(place)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 2


def test_missing_empty_and_mixed_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_study(tmp_path / "nothing.dcm")
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        read_study(tmp_path / "f")
    write_volume(tmp_path / "f" / "x.nii", volume(1))
    make.series(tmp_path / "f", np.zeros((1, 2, 2), dtype=np.int16))
    with pytest.raises(DataError, match="mixes dicom and nifti"):
        read_study(tmp_path / "f")


def test_limits_of_bytes_hold_for_files_and_folders(tmp_path: Path) -> None:
    folder = make.series(tmp_path / "s", np.zeros((3, 8, 8), dtype=np.int16))
    tight = Limits(max_bytes=700)
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_study(folder, limits=tight),
        lambda: read_study(min(folder.iterdir()), limits=tight),
    )
    for read in readers:
        with pytest.raises(TooLargeError, match="more than the limit"):
            read()
