"""The sentences of the expert protocol that never change, for tokenizers that may hold each as one piece.

A published tokenizer spends some four hundred tokens on the model cards of every question. A network of a few layers
that is trained in minutes cannot afford to read constants word by word; its tokenizer takes each of these sentences
as one piece. The prompts stay the same to the letter, only their pieces differ.
"""

import re

from vilam3.data.sample import Modality
from vilam3.dialogue.prompts import CXR_TRAINING_INSTRUCTION, INSTRUCTION, MRI_SENTENCE, MRI_SEQUENCES, opening
from vilam3.experts.facts import CARDS, published_ensemble
from vilam3.experts.wording import CUT, PREDICTIONS, RESULT, cxr_text

MODALITIES: tuple[Modality, ...] = ("CT", "CXR", "MRI")


def protocol_phrases(system: str = "") -> tuple[str, ...]:
    """Every constant sentence, longest first.

    Args:
        system: The template's system text, or empty.
    """
    modality_sentences = [opening("", modality=m, num_images=1, cards="", dialect="demo") for m in MODALITIES]
    labels = published_ensemble()["training_order"]
    lines = [
        line
        for value in (0.0, 2 * CUT)
        for line in cxr_text(dict.fromkeys(labels, value), dialect="training").splitlines(keepends=True)
    ]
    constants = [
        system,
        *CARDS.splitlines(keepends=True),
        *lines,
        *modality_sentences,
        CXR_TRAINING_INSTRUCTION,
        INSTRUCTION,
        MRI_SENTENCE,
        MRI_SEQUENCES,
        PREDICTIONS,
        RESULT,
    ]
    pieces = {piece.strip(" ") for text in constants for piece in re.split("<image>", text)}
    return tuple(sorted((piece for piece in pieces if len(piece) > 1), key=lambda piece: (-len(piece), piece)))
