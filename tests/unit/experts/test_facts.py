"""The published facts, held against digests of the published files and against each other."""

import hashlib

from vilam3.experts.facts import ARGUMENTS, CARDS, GROUPS, LABELS, NAMED, PALETTE, card, cards, published_ensemble


def test_model_cards_are_the_published_bytes() -> None:
    """SHA-256 of `model_list` in the published data preparation, which the demo repeats."""
    assert (
        hashlib.sha256(CARDS.encode()).hexdigest() == "c0e10e631e87a7da0873be4f94e5aa560529f751638016cb37347ebd3a6945b6"
    )
    assert cards() == CARDS
    assert card("CXR").startswith("<CXR(args)> Modality: chest x-ray (CXR), ")
    assert card("BRATS").endswith("Valid args are: None\n")


def test_an_added_card_stands_before_the_footer() -> None:
    lines = cards(("<ECHO(args)> Modality: US, Valid args are: None",)).splitlines(keepends=True)
    assert lines[:5] == CARDS.splitlines(keepends=True)[:5]
    assert lines[5:] == [
        "<ECHO(args)> Modality: US, Valid args are: None\n",
        "Give the model <NAME(args)> when selecting a suitable expert model.\n",
    ]


def test_groups_have_the_published_sizes_and_names() -> None:
    sizes = {name: len(labels) for name, labels in GROUPS.items()}
    assert sizes == {
        "everything": 117,
        "hepatic tumor": 2,
        "hepatoma": 2,
        "pancreatic tumor": 2,
        "lung tumor": 7,
        "bone lesion": 1,
        "organs": 27,
        "cardiovascular": 18,
        "gastrointestinal": 6,
        "skeleton": 65,
        "muscles": 10,
    }
    assert ARGUMENTS["VISTA3D"] == tuple(sizes)
    assert set(LABELS) - set(NAMED) == {16, 18, 129, 130, 131}
    assert all(LABELS[label_id] == name for label_id, name in NAMED.items())


def test_the_palette_has_orange_twice() -> None:
    assert len(PALETTE) == 16
    assert [rank for rank, color in enumerate(PALETTE) if color == "orange"] == [10, 12]


def test_the_ensemble_is_complete() -> None:
    ensemble = published_ensemble()
    assert len(ensemble["members"]) == 8
    assert all(len(member["thresholds"]) == len(ensemble["labels"]) == 18 for member in ensemble["members"])
    assert sorted(ensemble["training_order"]) == sorted(ensemble["labels"])
    assert ensemble["training_order"][-1] == "Pneumothorax"
    assert {label: len(members) for label, members in ensemble["restricted"].items()} == {
        "Atelectasis": 4,
        "Cardiomegaly": 4,
        "Consolidation": 4,
        "Edema": 4,
        "Effusion": 4,
        "Fracture": 4,
        "Lung Opacity": 8,
        "Pneumothorax": 1,
    }
