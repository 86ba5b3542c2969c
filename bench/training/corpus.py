"""A corpus with the composition and the lengths of the published stage-4 mixture, in random words on noise pictures.

Composition: the balanced sample counts of the published mixture (`pipelines/recipes/vila-m3-8b.toml`). Structure: the
published exchanges, such as the model cards before a question, four sequences and an overlay in one about an MRI, and
the eighteen lines of the radiograph classifier. Nobody has published lengths: those of the cards (about 400 tokens) and
of pictures (196 positions) follow from the published texts and sizes, the words of questions and answers are drawn from
ranges that the public data sets of the mixture have. A word of this corpus is one token.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from vilam3.data.llava import write_samples
from vilam3.data.sample import Sample, Turn

# Samples of an epoch in thousands, repeats counted.
BALANCED = {
    "usmle": 101.78,
    "radvqa": 100.496,
    "slake": 95.552,
    "pathvqa": 104.136,
    "expert_mimic_vqa": 258.464,
    "expert_vista3d": 400.0,
    "expert_brats": 240.0,
    "report": 270.0,
    "expert_report": 270.0,
}
CARDS_WORDS, PREDICTIONS_WORDS = 400, 110
NUM_SAMPLES, NUM_PICTURES, SIDE = 512, 512, 512
IMAGE = "<image>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Draws texts from a fixed vocabulary."""

    draw: random.Random
    vocabulary: tuple[str, ...]
    cards: str

    def some(self, least: int, most: int) -> str:
        """Between `least` and `most` words."""
        return " ".join(self.draw.choices(self.vocabulary, k=self.draw.randint(least, most)))


def write_corpus(folder: Path) -> None:
    """Write it; every time the same."""
    draw = random.Random(17)  # noqa: S311 - lengths, not secrets
    vocabulary = tuple(sorted({"".join(draw.choices("bdfgklmnprst", k=2)) + draw.choice("aeiou") for _ in range(500)}))
    cards = " ".join(draw.choices(vocabulary, k=CARDS_WORDS)) + " "
    words = Words(draw=draw, vocabulary=vocabulary, cards=cards)
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(17)
    for number in range(NUM_PICTURES):
        picture = Image.fromarray(noise.integers(0, 255, (SIDE, SIDE), dtype=np.uint8))
        picture.filter(ImageFilter.GaussianBlur(2)).save(folder / "images" / f"{number}.jpg", quality=90)
    total = sum(BALANCED.values())
    pictures = iter(range(1 << 30))
    for name, share in BALANCED.items():
        size = round(NUM_SAMPLES * share / total)
        samples = [_sample(f"{name}-{number}", name, words, pictures) for number in range(size)]
        write_samples(folder / "samples" / f"{name}.json", samples)
    (folder / "corpus.json").write_text(json.dumps({"name": "lengths", "seed": 17}), encoding="utf-8")


def _sample(sample_id: str, name: str, words: Words, pictures: Iterator[int]) -> Sample:
    texts = _texts(name, words)
    count = sum(text.count(IMAGE) for text in texts)
    turns = tuple(Turn(speaker="gpt" if place % 2 else "human", text=text) for place, text in enumerate(texts))
    images = tuple(f"images/{next(pictures) % NUM_PICTURES}.jpg" for _ in range(count))
    return Sample(sample_id=sample_id, images=images, turns=turns, task=name, patient=sample_id)


def _texts(name: str, words: Words) -> list[str]:
    """Human and model in turn, as the published scripts write each data set."""
    question = words.some(6, 16)
    if name == "usmle":
        return [words.some(70, 250), words.some(1, 60)]
    if name in {"radvqa", "slake", "pathvqa"}:
        return [f"{question}\n{IMAGE}", words.some(1, 8)]
    if name == "report":
        return [f"{IMAGE}\n{words.some(5, 5)}", words.some(40, 160)]
    if name == "expert_vista3d":
        return _about_ct(question, words)
    if name == "expert_brats":
        return _about_mri(question, words)
    predictions = f"{words.some(PREDICTIONS_WORDS, PREDICTIONS_WORDS)} {question}"
    answer = words.some(40, 160) if name == "expert_report" else words.some(1, 8)
    more = [] if name == "expert_report" else [words.some(1, 12) for _ in range(2 * words.draw.randint(0, 6))]
    return [f"{words.cards}{IMAGE} {question}", words.some(14, 14), predictions, answer, *more]


def _about_ct(question: str, words: Words) -> list[str]:
    """Half ask for a segmentation and end with the call of the expert."""
    first = [f"{words.cards}{IMAGE} {question}", words.some(10, 20)]
    if words.draw.random() < 0.5:  # noqa: PLR2004 - half
        return first
    return [*first, f"{IMAGE} {words.some(20, 60)} {question}", words.some(1, 20)]


def _about_mri(question: str, words: Words) -> list[str]:
    """Of three conversations two call the expert."""
    if words.draw.random() < 1 / 3:
        return [f"{question}\n{IMAGE}", words.some(6, 6)]
    sequences = ", ".join([IMAGE] * 4)
    return [
        f"{words.cards}{sequences} {question}",
        words.some(14, 14),
        f"{IMAGE} {words.some(35, 45)} {question}",
        words.some(5, 8),
    ]
