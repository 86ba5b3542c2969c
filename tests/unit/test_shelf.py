"""The study store: what is kept, under which names, for whom, and how much of it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.unit.data import dicom_files
from vilam3.data.intake import read_study
from vilam3.data.limits import Limits
from vilam3.data.packed import pack, unpack
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import ArtifactError, NotFoundError, TooLargeError, UserError
from vilam3.objects import FolderStore, open_store
from vilam3.shelf import Bounds, Shelf, drop_oldest


def ct(fill: float = 0.0) -> Study:
    voxels = np.full((3, 4, 2), fill, np.float32)
    return study_of(modality="CT", volumes=(Volume(voxels_XYZ=voxels, affine_RAS=np.eye(4)),), warnings=("odd",))


@given(
    voxels=npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8]),
        npst.array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=st.sampled_from([0, 1, 7, 100]),
    ),
    sign=st.sampled_from([1, -1, 0.5]),
)
@settings(max_examples=30, deadline=None)
def test_a_packed_study_comes_back_to_the_bit(
    voxels: np.ndarray, sign: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if voxels.dtype.kind == "f":
        voxels = voxels * voxels.dtype.type(sign)
    volume = Volume(voxels_XYZ=voxels, affine_RAS=np.diag([0.7, -1 / 3, 3.0, 1.0]), sequence="t1c", stored_axes="LPS")
    study = study_of(modality="MRI", volumes=(volume, volume), series="abc", warnings=("one",))
    path = tmp_path_factory.mktemp("packed") / "study.zip"
    pack(study, path)
    back = unpack(path)
    assert (back.digest, back.series, back.warnings) == (study.digest, "abc", ("one",))
    assert back.volumes[1].voxels_XYZ.dtype == voxels.dtype
    assert back.volumes[1].voxels_XYZ.tobytes() == voxels.tobytes()
    assert (back.volumes[0].stored_axes, back.volumes[0].sequence) == ("LPS", "t1c")


def test_a_radiograph_and_a_colour_picture_come_back(tmp_path: Path) -> None:
    grey, rgb = np.arange(12, dtype=np.uint16).reshape(3, 4), np.full((3, 4, 3), 9, np.uint8)
    study = study_of(modality="CXR", radiograph_HW=grey, picture_HWC=rgb)
    pack(study, tmp_path / "s")
    back = unpack((tmp_path / "s").read_bytes())
    assert back.digest == study.digest
    assert np.array_equal(back.picture_HWC if back.picture_HWC is not None else 0, rgb)


def test_a_damaged_or_exchanged_pack_is_refused(tmp_path: Path) -> None:
    pack(ct(), tmp_path / "s")
    content = (tmp_path / "s").read_bytes()
    for broken in (b"", b"no zip", content[: len(content) // 2]):
        with pytest.raises(ArtifactError, match="damaged"):
            unpack(broken)
    with zipfile.ZipFile(tmp_path / "s") as packed:
        told, array = json.loads(packed.read("study.json")), packed.read("0.npy")
    with zipfile.ZipFile(tmp_path / "other", "w") as other:
        other.writestr("study.json", json.dumps({**told, "modality": "MRI"}))
        other.writestr("0.npy", array)
    with pytest.raises(ArtifactError, match="does not match its digest"):
        unpack(tmp_path / "other")
    with pytest.raises(TooLargeError):
        unpack(content, limits=Limits(max_voxels=3))


def test_nothing_of_the_patient_is_kept(tmp_path: Path) -> None:
    dicom_files.series(tmp_path / "series", np.zeros((2, 6, 5), np.int16))
    shelf = Shelf(FolderStore(tmp_path / "store"))
    shelf.put("ward", read_study(tmp_path / "series"))
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        named = path.relative_to(tmp_path).as_posix()
        with zipfile.ZipFile(path) as packed:
            inside = b"".join(packed.read(name) for name in packed.namelist())
        assert not [secret for secret in dicom_files.SECRETS if secret in named or secret.encode() in inside]


def test_a_reference_is_bound_to_tenant_and_content(tmp_path: Path) -> None:
    shelf = Shelf(FolderStore(tmp_path))
    mine, same, other, theirs = shelf.put("a", ct()), shelf.put("a", ct()), shelf.put("a", ct(1)), shelf.put("b", ct())
    folders = [study.reference.rpartition("/")[0] for study in (mine, same, other, theirs)]
    assert folders[0] == folders[1] == folders[2] != folders[3]
    assert mine.reference != same.reference
    assert Shelf(FolderStore(tmp_path)).get(mine.reference).digest == ct().digest
    (tmp_path / other.reference / "study.zip").write_bytes((tmp_path / mine.reference / "study.zip").read_bytes())
    with pytest.raises(ArtifactError, match="not the one its reference names"):
        Shelf(FolderStore(tmp_path)).get(other.reference)
    shelf.forget(mine.reference)
    with pytest.raises(NotFoundError, match="upload it again"):
        shelf.get(mine.reference)
    assert shelf.get(same.reference).digest == ct().digest


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../b", "a//b", ".hidden", "a\\b", "", "ä"])
def test_a_key_cannot_lead_elsewhere(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "store")
    with pytest.raises(NotFoundError):
        store.get(key)
    with pytest.raises(NotFoundError):
        store.put(key, b"x")
    with pytest.raises(NotFoundError):
        Shelf(store).get(key)
    assert not list(tmp_path.rglob("*x*"))


def test_what_was_used_longest_ago_goes_first_over_all_tenants(tmp_path: Path) -> None:
    objects = FolderStore(tmp_path)
    shelf = Shelf(objects)
    kept = [shelf.put(tenant, ct(number)).reference for number, tenant in enumerate("abc")]
    objects.put(f"{kept[0]}/info.json", b"{}")
    assert drop_oldest(objects, "studies", Bounds(max_count=2)) == [kept[1]]
    assert drop_oldest(objects, "studies", Bounds(max_bytes=1)) == [kept[2]]
    assert drop_oldest(objects, "answers", Bounds(max_count=0)) == []
    assert drop_oldest(objects, "studies", Bounds(max_age_s=0.0)) == []  # the newest always stays


def test_the_store_is_named_by_a_uri(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20b")
    store.put("k/v", b"1")
    assert (tmp_path / "a b" / "k" / "v").read_bytes() == b"1"
    for wrong in ("", "/tmp/x", "file:x", "http://x/y", "s3:///x"):  # noqa: S108 - refused
        with pytest.raises(UserError, match="write file:///folder or s3://bucket/prefix"):
            open_store(wrong)
