"""The order of samples in shards depends on seed and position, and a step needs few shards."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.data.mixture import Pick, mixture_of
from vilam3.data.windows import ShardPlace, WindowedMixture

SHARDS = st.dictionaries(
    st.sampled_from(["captions", "vqa", "text", "report"]),
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 3)),
    min_size=1,
)


def windowed(
    drawn: dict[str, tuple[list[int], int]], *, seed: int = 3, mixed: int = 4
) -> tuple[WindowedMixture, dict[str, list[int]], int]:
    """A mixture, the samples of its shards, and those of an epoch."""
    sizes = {name: shards for name, (shards, _) in sorted(drawn.items())}
    weights = {name: weight for name, (_, weight) in sorted(drawn.items())}
    samples = sum(sum(shards) * weight for shards, weight in drawn.values())
    return WindowedMixture(sizes, weights, seed=seed, mixed_shards=mixed), sizes, samples


def place_of(pick: Pick, sizes: dict[str, list[int]]) -> ShardPlace:
    """The shard that holds a sample."""
    index, number = pick.index, 0
    while index >= sizes[pick.source][number]:
        index -= sizes[pick.source][number]
        number += 1
    return ShardPlace(source=pick.source, number=number)


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(0, 2**31), st.integers(1, 20), st.integers(0, 3))
def test_each_sample_occurs_in_every_epoch_exactly_as_often_as_its_weight(
    drawn: dict[str, tuple[list[int], int]], seed: int, mixed: int, epoch: int
) -> None:
    mixture, _, samples = windowed(drawn, seed=seed, mixed=mixed)
    counts = Counter(mixture.picks(epoch * samples, (epoch + 1) * samples))
    expected = {
        Pick(source=name, index=index): weight
        for name, (shards, weight) in drawn.items()
        for index in range(sum(shards))
    }
    assert counts == expected


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(0, 2**31), st.integers(1, 20), st.data())
def test_what_is_drawn_lies_in_the_shards_that_were_said_to_come(
    drawn: dict[str, tuple[list[int], int]], seed: int, mixed: int, data: st.DataObject
) -> None:
    """From any position to the end of the next window, first what is needed first, and never more than two windows."""
    mixture, sizes, samples = windowed(drawn, seed=seed, mixed=mixed)
    position = data.draw(st.integers(0, 2 * samples))
    coming = mixture.coming(position)
    window, needed, at, ends = mixture.window_at(position), [], position, 0
    while ends < 2:
        (pick,) = mixture.picks(at, at + 1)
        needed.append(place_of(pick, sizes))
        at += 1
        ends += mixture.window_at(at) != window
        window = mixture.window_at(at)
    assert coming == list(dict.fromkeys(needed))
    assert len(coming) <= 2 * mixed


@settings(max_examples=40, deadline=None)
@given(SHARDS, st.integers(0, 2**31), st.integers(1, 20))
def test_a_window_over_all_shards_gives_the_order_of_a_corpus_without_shards(
    drawn: dict[str, tuple[list[int], int]], seed: int, more: int
) -> None:
    visits = sum(len(shards) * weight for shards, weight in drawn.values())
    mixture, sizes, samples = windowed(drawn, seed=seed, mixed=visits - 1 + more)
    weights = {name: weight for name, (_, weight) in sorted(drawn.items())}
    plain = mixture_of({name: sum(shards) for name, shards in sizes.items()}, weights, seed=seed)
    assert list(mixture.picks(0, 2 * samples)) == list(plain.picks(0, 2 * samples))


def test_the_sequence_depends_on_position_alone_not_on_how_it_is_cut() -> None:
    drawn = {"vqa": ([5, 5, 3], 2), "text": ([4] * 6, 1)}
    whole = list(windowed(drawn)[0].picks(0, 120))
    for batch in (1, 7, 32):
        mixture, *_ = windowed(drawn)
        assert [one for at in range(0, 120, batch) for one in mixture.picks(at, min(at + batch, 120))] == whole
    assert list(windowed(drawn)[0].picks(90, 97)) == whole[90:97]


def test_every_window_has_the_sources_in_about_their_shares_and_repeats_lie_apart() -> None:
    sizes, weights = {"many": [8] * 60, "few": [8] * 10}, {"many": 1, "few": 3}
    mixture = WindowedMixture(sizes, weights, seed=1, mixed_shards=30)
    whole = list(mixture.picks(0, 720))
    assert [mixture.window_at(at)[1] for at in (0, 239, 240, 479, 480, 719)] == [0, 0, 1, 1, 2, 2]
    for start in range(0, 720, 240):
        few = {pick.index for pick in whole[start : start + 240] if pick.source == "few"}
        assert abs(sum(pick.source == "few" for pick in whole[start : start + 240]) - 80) <= 8  # a third, to a shard
        assert len(few) >= 72  # of ten shards at least nine, each time


def test_epochs_and_seeds_differ() -> None:
    drawn = {"vqa": ([5] * 9, 1)}
    whole = list(windowed(drawn)[0].picks(0, 90))
    assert whole[:45] != whole[45:]
    assert whole[:45] != list(windowed(drawn, seed=4)[0].picks(0, 45))
