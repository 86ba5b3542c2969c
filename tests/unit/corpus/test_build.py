"""A corpus holds published conversations, keeps patients apart and follows from its seed."""

import json
from pathlib import Path

import pytest

from tests.unit.corpus.conftest import SEED, SETTINGS
from vilam3.corpus.build import build_corpus
from vilam3.data.intake import read_study
from vilam3.data.llava import check_images, read_questions, read_samples
from vilam3.data.sample import Question, Sample
from vilam3.experts.facts import cards

SHORT = ("yes", "no")
DIRECT = ("vqa_ct", "vqa_cxr", "vqa_mri")
DATASETS = ("captions", "expert_brats", "expert_cxr", "expert_vista3d", "glossary", "reading", *DIRECT, "vqa_plain")


def samples_of(corpus: Path, dataset: str) -> list[Sample]:
    """All conversations of one dataset."""
    return read_samples(corpus / "samples" / f"{dataset}.json")


def test_manifest_counts_what_is_there(corpus: Path) -> None:
    manifest = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))
    assert manifest["samples"] == {name: len(samples_of(corpus, name)) for name in DATASETS}
    assert manifest["samples"]["reading"] == SETTINGS.reading_exercises
    assert sum(manifest["patients"].values()) == 16


def test_every_image_place_has_its_picture(corpus: Path) -> None:
    for dataset in DATASETS:
        samples = samples_of(corpus, dataset)
        check_images(samples, root=corpus)
        for sample in samples:
            assert sum(turn.text.count("<image>") for turn in sample.turns) == len(sample.images)


def test_sample_ids_are_unique(corpus: Path) -> None:
    ids = [sample.sample_id for dataset in DATASETS for sample in samples_of(corpus, dataset)]
    assert len(ids) == len(set(ids))


def test_no_patient_is_both_trained_on_and_asked_about(corpus: Path) -> None:
    trained = {sample.patient for dataset in DATASETS for sample in samples_of(corpus, dataset)} - {""}
    held = {question.patient for split in ("validation", "test") for question in read_split(corpus, split)}
    assert trained
    assert held
    assert not trained & held


def read_split(corpus: Path, split: str) -> list[Question]:
    """Questions of a split."""
    return read_questions(corpus / "questions" / f"{split}.jsonl")


def test_ct_exchange_is_the_published_one(corpus: Path) -> None:
    sample = next(s for s in samples_of(corpus, "expert_vista3d") if s.task == "ct_hepatic_tumor")
    opening, trigger, results, answer = (turn.text for turn in sample.turns)
    question = opening.split("This is a CT image.\n")[1]
    assert opening == cards() + " <image>This is a CT image.\n" + question
    assert trigger == "This looks like a CT image. Let me trigger <VISTA3D(hepatic tumor)>. "
    assert results.startswith("The results are <image>. The colors in this image describe red: liver")
    assert results.endswith(f". Use this result to respond to this prompt:\n{question}.")
    assert answer == ("yes" if "hepatic tumor" in results.split("Use this")[0] else "no")


def test_radiograph_exchange_is_the_published_one(corpus: Path) -> None:
    sample = samples_of(corpus, "expert_cxr")[0]
    opening, trigger, results, _, *further = (turn.text for turn in sample.turns)
    assert len(further) == 8, "every other finding is asked in the same conversation"
    assert opening.startswith(cards() + "<image> This is a CXR image.\n")
    assert trigger == "This looks like an chest x-ray. Let me first trigger <CXR()>."
    assert results.startswith("The resulting predictions are:\natelectasis: ")
    assert "\n. Analyze the image and take these predictions into account when responding to this prompt:\n" in results


def test_brain_exchange_is_the_published_one(corpus: Path) -> None:
    for sample in samples_of(corpus, "expert_brats"):
        _, trigger, results, answer = (turn.text for turn in sample.turns)
        assert trigger == "This looks like an MRI image sequence. Let me first trigger <BRATS()>."
        assert len(sample.images) == 5
        assert ("enhancing tumor" in results) == (answer == "The scan indicates high grade glioma.")


def test_segmentation_ends_with_the_reply_that_calls(corpus: Path) -> None:
    sample = next(s for s in samples_of(corpus, "expert_vista3d") if s.task == "ct_segment")
    assert len(sample.turns) == 2
    assert sample.turns[1].text.startswith("I segmented the ")


def test_direct_answers_are_learned_on_the_same_questions(corpus: Path) -> None:
    """The model without experts is a fair opponent: as many samples, about the same slices."""
    experts = ("expert_vista3d", "expert_brats", "expert_cxr")
    consulted = [sample for name in experts for sample in samples_of(corpus, name)]
    answered = [sample for name in DIRECT for sample in samples_of(corpus, name)]
    assert learned([s for s in consulted if s.task != "ct_segment"]) == learned(answered)


def learned(samples: list[Sample]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Who is asked what, and the short answers given."""
    return sorted((s.patient, s.task, tuple(t.text for t in s.turns if t.text in SHORT)) for s in samples)


def test_studies_read_back_with_their_modality(corpus: Path) -> None:
    for question in read_split(corpus, "test"):
        study = read_study(corpus / question.study, modality=question.modality)
        assert study.modality == question.modality
        assert question.slice_index is None or question.slice_index < study.num_slices


def test_reading_answers_are_the_lines_asked_for(corpus: Path) -> None:
    for sample in samples_of(corpus, "reading"):
        lines = dict(line.split(": ") for line in sample.turns[0].text.splitlines() if line.endswith((": yes", ": no")))
        for asked, answered in zip(sample.turns[::2], sample.turns[1::2], strict=True):
            finding = next(name for name in lines if name in asked.text.rsplit("\n", 1)[-1])
            assert answered.text == lines[finding]


def test_corpus_follows_from_its_seed_alone(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes write what one writes."""
    monkeypatch.setattr("vilam3.corpus.build.CHUNK", 4)
    again = build_corpus(SETTINGS, tmp_path / "again", seed=SEED)
    assert again["digest"] == json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))["digest"]
