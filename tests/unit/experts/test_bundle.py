"""One loader for bundles in the published layout."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.experts.bundles import write_channels, write_prompted
from vilam3.artifacts import sha256_file
from vilam3.data.study import Volume
from vilam3.errors import CheckpointError, NotFoundError, VilaM3Error
from vilam3.experts.bundle import Bundle


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_prompted(tmp_path_factory.mktemp("bundles") / "vista3d"))


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_channels(tmp_path_factory.mktemp("bundles") / "brats"))


def volume(voxels_XYZ: np.ndarray, affine_RAS: np.ndarray | None = None) -> Volume:
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) if affine_RAS is None else affine_RAS
    return Volume(voxels_XYZ=voxels_XYZ.astype(np.float32), affine_RAS=affine, stored_axes="LPS")


@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(1, 5)), st.floats(-0.5, 0.5), st.integers(0, 99))
def test_an_answer_is_on_the_grid_it_was_asked_about(
    prompted: Bundle, shape: tuple[int, int, int], angle: float, seed: int
) -> None:
    """Whatever the size, the tilt and the axes in which the bundle works."""
    levels_XYZ = np.random.default_rng(seed).choice([0, 20, 40], shape)
    affine = np.diag([2.0, 3.0, 5.0, 1.0])
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [2.0, 3.0]
    affine[:3, 3] = (-40, 25, 600)
    ids_XYZ = prompted.segment([volume(levels_XYZ, affine)], label_prompt=[1, 26])
    assert ids_XYZ.dtype == np.uint8
    assert (ids_XYZ == np.select([levels_XYZ == 20, levels_XYZ == 40], [1, 26], 0)).all()


def test_only_prompted_labels_come_back_and_unvisited_voxels_are_background(prompted: Bundle) -> None:
    levels_XYZ = np.array([0, 20, 40, 0, 20, 40]).reshape(6, 1, 1).repeat(2, axis=1)
    assert prompted.segment([volume(levels_XYZ)], label_prompt=[26])[:3, 0, 0].tolist() == [0, 0, 26]
    assert prompted.segment([volume(levels_XYZ)])[:3, 0, 0].tolist() == [0, 1, 26]


def test_bundles_with_modules_of_one_name_live_in_one_process(prompted: Bundle, channels: Bundle) -> None:
    before = list(sys.path), {name for name in sys.modules if name.partition(".")[0] == "scripts"}
    levels_XYZ = np.array([0, 20, 40, 0, 20, 40]).reshape(6, 1, 1).repeat(2, axis=1)
    for _ in range(2):
        assert channels.segment([volume(np.ones((2, 2, 2)))] * 4).max() == 4
        assert prompted.segment([volume(levels_XYZ)], label_prompt=[1]).max() == 1
    after = list(sys.path), {name for name in sys.modules if name.partition(".")[0] == "scripts"}
    assert after == before


def test_studies_from_two_threads_keep_their_own_answers(prompted: Bundle) -> None:
    answers: dict[int, int] = {}

    def ask(label_id: int) -> None:
        answers[label_id] = int(prompted.segment([volume(np.full((2, 2, 2), 20))], label_prompt=[label_id]).max())

    threads = [threading.Thread(target=ask, args=(label_id,)) for label_id in (1, 26)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {1: 1, 26: 0}


def test_the_network_is_loaded_once_and_the_process_is_not_seeded(prompted: Bundle) -> None:
    """The bundle's own `initialize` would seed every random generator."""
    torch.manual_seed(5)
    prompted.segment([volume(np.zeros((2, 2, 2)))], label_prompt=[1])
    assert torch.initial_seed() == 5
    assert prompted.network() is prompted.network()


def test_version_and_digest_name_the_weights(prompted: Bundle) -> None:
    assert prompted.version == "0.5.4"
    assert prompted.weights_digest == sha256_file(prompted.root / "models" / "model.pt")


def test_a_bundle_that_is_not_there_or_not_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such directory"):
        Bundle.open(tmp_path / "none")
    root = write_prompted(tmp_path / "vista3d")
    (root / "configs" / "metadata.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"metadata.json is not JSON"):
        Bundle.open(root)
    (root / "models" / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"models/model.pt is missing; download the bundle's large files"):
        Bundle.open(root)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code from a weight file ran",)


def test_weights_cannot_run_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_prompted(tmp_path / "vista3d")
    torch.save({"model": {"centres": torch.zeros(3)}, "extra": _Evil()}, root / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        Bundle.open(root).segment([volume(np.zeros((2, 2, 2)))])
    assert "ran" not in capfd.readouterr().out


def test_weights_that_are_damaged_or_do_not_fit_are_named(tmp_path: Path) -> None:
    root = write_prompted(tmp_path / "vista3d")
    weights = root / "models" / "model.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model.pt is damaged"):
        Bundle.open(root).network()
    torch.save({"model": {"centres": torch.zeros(4)}}, weights)
    with pytest.raises(CheckpointError, match=r"does not fit network_def of .*centres.*\[4\].*\[3\]"):
        Bundle.open(root).network()


def test_a_config_that_cannot_be_told_what_to_read_is_refused(tmp_path: Path) -> None:
    root = write_prompted(tmp_path / "vista3d")
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    del config["input_dict"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="neither input_dict nor test_datalist"):
        Bundle.open(root).segment([volume(np.zeros((2, 2, 2)))])


def test_an_answer_on_another_grid_is_refused(tmp_path: Path) -> None:
    root = write_prompted(tmp_path / "vista3d")
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"]["transforms"].append({"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 1.0]})
    del config["postprocessing"]["transforms"][1]  # no inversion
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is not on the grid of the image"):
        Bundle.open(root).segment([volume(np.zeros((2, 3, 4)))], label_prompt=[1])


def test_a_failure_inside_a_bundle_is_told_with_its_first_cause(channels: Bundle) -> None:
    with pytest.raises(VilaM3Error, match=r"expert bundle brats 0.5.2: failed on this study \("):
        channels.segment([volume(np.ones((2, 2, 2))), volume(np.ones((2, 3, 2)))])
