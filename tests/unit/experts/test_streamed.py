"""A study of any size, window by window: the same labels as when all is held at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.experts.bundles import write_prompted, write_published, write_small
from vilam3.data.study import Volume
from vilam3.errors import Cancelled
from vilam3.experts import streamed
from vilam3.experts.bundle import Bundle
from vilam3.experts.protocol import unwatched
from vilam3.experts.sweep import Sweep, Windows

SOME_PROPERTY = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SHAPES = st.tuples(st.integers(3, 17), st.integers(3, 19), st.integers(2, 13))
SPACINGS = st.tuples(*[st.sampled_from([0.7, 1.0, 1.5, 2.0, 2.5, 3.0])] * 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def published(root: Path) -> Bundle:
    return Bundle.open(write_published(root / "published"))


@pytest.fixture(scope="module")
def small(root: Path) -> Bundle:
    return Bundle.open(write_small(root / "small", overlap=0.4, batch=2))


def volume(shape: Sequence[int], spacing_mm: Sequence[float], *, seed: int = 0, angle: float = 0.0) -> Volume:
    """Smooth noise with air around."""
    rng = np.random.default_rng(seed)
    voxels = rng.normal(80, 160, tuple(shape)).astype(np.float32)
    voxels[: shape[0] // 4] = -1000
    affine = np.diag([*spacing_mm, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:2, :2] = turn @ affine[:2, :2]
    affine[:3, 3] = (-40, 25, 600)
    return Volume(voxels_XYZ=voxels, affine_RAS=affine)


def both(bundle: Bundle, image: Volume, prompt: list[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Window by window, and in the bundle's own way."""
    ids = bundle._streamed(image, prompt, unwatched)
    assert ids is not None, bundle._whole_because
    prompts = {} if prompt is None else {"label_prompt": prompt}
    return ids, bundle._in_its_own_way([image], prompts, unwatched)


@SOME_PROPERTY
@given(SHAPES, SPACINGS, st.floats(-0.3, 0.3), st.sampled_from([None, [3], [2, 26], [7, 1, 5]]), st.integers(0, 99))
def test_the_published_steps_give_the_same_labels(
    published: Bundle,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    angle: float,
    prompt: list[int] | None,
    seed: int,
) -> None:
    """Resampled, cropped, prompted by label ids of which one stands for two, blended and brought back."""
    found, true = both(published, volume(shape, spacing_mm, seed=seed, angle=angle), prompt)
    assert found.dtype == np.uint8
    assert true.any()
    assert np.array_equal(found, true)


@SOME_PROPERTY
@given(SHAPES, SPACINGS, st.sampled_from([None, [26], [1, 4]]), st.integers(0, 99))
def test_the_steps_of_fitted_bundles_give_the_same_labels(
    small: Bundle,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    prompt: list[int] | None,
    seed: int,
) -> None:
    """Gaussian blend, several windows at a time, components that are too small."""
    found, true = both(small, volume(shape, spacing_mm, seed=seed), prompt)
    assert np.array_equal(found, true)


@pytest.mark.parametrize("num_bytes", [1, 5_000, 20_000, 1 << 30])
def test_labels_do_not_depend_on_how_much_memory_there_is(
    published: Bundle, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    """Where scores of a whole slab are too many, parts of it are computed one after the other."""
    image = volume((15, 33, 26), (1.5, 1.5, 1.5), seed=4)
    true = published._in_its_own_way([image], {}, unwatched)
    monkeypatch.setattr(streamed.Plan, "_max_bytes", lambda *_: num_bytes)
    assert np.array_equal(published.segment([image]), true)


def test_air_alone_is_background(published: Bundle) -> None:
    """The published steps fail here: nothing is left after cropping."""
    image = volume((8, 8, 8), (1.5, 1.5, 1.5))
    image.voxels_XYZ[:] = -1000
    assert not published.segment([image], label_prompt=[1]).any()


def test_progress_is_told_and_work_stops_between_two_windows(published: Bundle) -> None:
    image, told = volume((20, 20, 20), (1.5, 1.5, 1.5)), list[float]()
    published.segment([image], label_prompt=[1], watch=told.append)
    assert told == sorted(told)
    assert len(told) > 20
    assert told[0] == 0
    assert told[-1] == 1

    def leave(fraction: float) -> None:
        if fraction > 0.5:
            raise Cancelled("gone")

    with pytest.raises(Cancelled):
        published.segment([image], label_prompt=[1], watch=leave)


def test_a_bundle_in_its_own_way_tells_progress_too(root: Path) -> None:
    bundle = Bundle.open(write_prompted(root / "own-way"))
    told: list[float] = []
    bundle.segment([volume((6, 6, 6), (1, 1, 1))], label_prompt=[1], watch=told.append)
    assert bundle._whole_because == "postprocessing step Answer"
    assert told == [0, 0, 1]

    def leave(_: float) -> None:
        raise Cancelled("gone")

    with pytest.raises(Cancelled):
        bundle.segment([volume((6, 6, 6), (1, 1, 1))], label_prompt=[1], watch=leave)


def test_windows_begin_where_monai_begins_them() -> None:
    windows = Windows(size_XYZ=(8, 8, 8), overlap=0.25)
    assert windows.starts((20, 8, 9)) == ((0, 6, 12), (0,), (0, 1))


@pytest.mark.parametrize("num_classes", [2, 27, 117])
def test_scores_of_a_large_volume_fit_in_what_they_may_take(num_classes: int) -> None:
    """Of the cross-section, which is covered once, as few parts as that allows; the whole at once would be 377 GB."""
    shape, max_bytes = (1024, 1024, 768), 1 << 30
    windows = Windows(size_XYZ=(128, 128, 128))
    sweep = Sweep(
        shape_XYZ=shape,
        windows=windows,
        read=lambda _: torch.zeros(1),
        network=lambda *_: torch.zeros(1),
        labels=lambda scores: scores,
        num_classes=num_classes,
        max_bytes=max_bytes,
        device=torch.device("cpu"),
    )
    _, starts_y, starts_z = windows.starts(shape)
    parts = list(sweep._parts(shape, starts_y, starts_z))
    areas = [(high_y - low_y) * (high_z - low_z) for (low_y, high_y), (low_z, high_z) in parts]
    assert max(areas) * num_classes * 128 * 4 <= max_bytes
    assert sum(areas) == shape[1] * shape[2]
    assert len(parts) == {2: 1, 27: 18, 117: 88}[num_classes]
