"""The order of samples depends on seed and position, and on nothing else."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.data.mixture import Mixture, Pick, Source, mixture_of
from vilam3.errors import RecipeError

# The published stage-4 mixture: samples and repeats of each data set.
STAGE_4 = {
    "usmle": (10_178, 10),
    "radvqa": (25_124, 4),
    "slake": (23_888, 4),
    "pathvqa": (26_034, 4),
    "expert_mimic_vqa": (129_232, 2),
    "expert_vista3d": (50_000, 8),
    "expert_brats": (15_000, 16),
    "mimic_report_clean": (270_000, 1),
    "mimic_report_expert_clean": (270_000, 1),
}


def small(seed: int = 0) -> Mixture:
    return mixture_of({"a": 3, "b": 5, "c": 2}, {"a": 10, "b": 1, "c": 3}, seed=seed)


def test_the_published_stage_4_plans_its_samples_and_steps() -> None:
    sizes = {name: size for name, (size, _) in STAGE_4.items()}
    mixture = mixture_of(sizes, {name: weight for name, (_, weight) in STAGE_4.items()}, seed=0)
    assert sum(sizes.values()) == 819_456
    assert mixture.samples_per_epoch == 1_840_428
    assert 2 * mixture.samples_per_epoch // 1024 == 3594  # two epochs in batches of 1024


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 5))
def test_each_sample_occurs_exactly_as_often_as_its_weight_in_every_epoch(seed: int, epoch: int) -> None:
    mixture = small(seed)
    counts = Counter(mixture.picks(epoch * 41, (epoch + 1) * 41))
    expected = {Pick(source="a", index=index): 10 for index in range(3)}
    expected |= {Pick(source="b", index=index): 1 for index in range(5)}
    expected |= {Pick(source="c", index=index): 3 for index in range(2)}
    assert mixture.samples_per_epoch == 41
    assert counts == expected


def test_the_sequence_depends_on_position_alone_not_on_how_it_is_cut() -> None:
    mixture = small(seed=4)
    whole = list(mixture.picks(0, 100))
    for batch in (1, 7, 32):
        cut = [pick for start in range(0, 100, batch) for pick in mixture.picks(start, min(start + batch, 100))]
        assert cut == whole
    assert list(small(seed=4).picks(63, 70)) == whole[63:70]


def test_epochs_and_seeds_differ() -> None:
    first, second = list(small().picks(0, 41)), list(small().picks(41, 82))
    assert first != second
    assert first != list(small(seed=1).picks(0, 41))


def test_the_order_is_written_out_so_that_a_change_is_seen() -> None:
    """A resumed run of an older version must go on with the samples that it would have taken."""
    assert " ".join(f"{pick.source}{pick.index}" for pick in small(seed=3).picks(40, 48)) == "a0 b4 a2 a1 a1 a0 b1 a0"


def test_sources_are_spread_over_the_epoch() -> None:
    mixture = mixture_of({"many": 5000, "few": 100}, {"many": 1, "few": 10}, seed=0)
    for start in range(0, 6000, 1000):
        share = sum(pick.source == "few" for pick in mixture.picks(start, start + 1000)) / 1000
        assert share == pytest.approx(1 / 6, abs=0.05)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ((), "no source"),
        ((Source(name="a", num_samples=3), Source(name="a", num_samples=4)), "occurs twice"),
        ((Source(name="a", num_samples=3, weight=0),), "weight 0 on 3"),
        ((Source(name="a", num_samples=0),), "on 0 samples"),
    ],
)
def test_impossible_mixtures_are_refused(sources: tuple[Source, ...], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Mixture(sources=sources)


def test_a_weight_for_an_unknown_source_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"mixture\.x: no such source; there are a, b"):
        mixture_of({"a": 1, "b": 1}, {"x": 1}, seed=0)
