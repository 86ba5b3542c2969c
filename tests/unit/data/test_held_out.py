"""Who is held out follows from the seed and the pseudonyms alone, and nobody is on both sides."""

import hypothesis.strategies as st
from hypothesis import given

from vilam3.data.held_out import choose, name_of, parted
from vilam3.data.sample import Sample, Turn

TURNS = (Turn(speaker="human", text="What is it?"), Turn(speaker="gpt", text="A liver."))
PATIENTS = st.lists(st.sampled_from(["", *(f"p{number}" for number in range(8))]), max_size=12)


def samples(dataset: str, patients: list[str]) -> list[Sample]:
    return [
        Sample(sample_id=f"{dataset}-{number}", turns=TURNS, patient=patient) for number, patient in enumerate(patients)
    ]


@given(st.dictionaries(st.sampled_from(["vqa", "expert", "text"]), PATIENTS), st.integers(0, 12), st.integers(0, 5))
def test_a_patient_is_learned_or_held_out_never_both(given_: dict[str, list[str]], at_least: int, seed: int) -> None:
    datasets = {dataset: samples(dataset, patients) for dataset, patients in given_.items()}
    every = [one for found in datasets.values() for one in found]
    names = choose(every, at_least=at_least, seed=seed)
    learned, held_out = parted(datasets, names)
    sides = [{name_of(one) for found in side.values() for one in found} for side in (learned, held_out)]
    assert not sides[0] & sides[1]
    assert sides[1] == names
    count = sum(map(len, held_out.values()))
    assert count >= min(at_least, len(every))
    last = {name: sum(name_of(one) == name for one in every) for name in names}
    assert not names or any(count - own < at_least for own in last.values())
    for dataset, found in datasets.items():
        assert sorted(one.sample_id for one in found) == sorted(
            one.sample_id for one in learned[dataset] + held_out[dataset]
        )
    assert choose(reversed(every), at_least=at_least, seed=seed) == names


def test_another_seed_holds_out_others() -> None:
    every = samples("vqa", [f"p{number}" for number in range(40)])
    assert choose(every, at_least=5, seed=11) != choose(every, at_least=5, seed=12)
