"""Training conversations, written by driving the dialogue loop with scripted replies and true findings.

Because `vilam3.dialogue.loop.converse` also answers users, a model is trained on exactly the words it will meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vilam3.corpus.patients import Item, Patient
from vilam3.data.render import views
from vilam3.data.sample import IMAGE_TOKEN, Dialect, Turn
from vilam3.dialogue.loop import Asking, Consult, Outcome, Transcript, converse
from vilam3.dialogue.messages import squash
from vilam3.experts.protocol import ExpertResult
from vilam3.experts.trigger import Grammar


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """Turns and the pictures that fill their ``<image>`` places, in order."""

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...]


def consulting(
    patient: Patient, item: Item, truth: ExpertResult, *, grammar: Grammar, cards: str, dialect: Dialect
) -> Conversation:
    """The published expert exchange: cards and question, trigger, result, answer."""
    transcript = _play(patient, item, [item.trigger, item.answer], truth, grammar, cards, dialect)
    return _conversation(transcript, item.further)


def direct(patient: Patient, item: Item, *, grammar: Grammar, dialect: Dialect) -> Conversation:
    """The same question answered from the pictures alone."""
    return _conversation(_play(patient, item, [item.answer], None, grammar, "", dialect), item.further)


def plain(question: str, answer: str, images: tuple[Image.Image, ...]) -> Conversation:
    """The published plain VQA form: question, newline, image places; text alone where there are no images."""
    places = ("\n" + " ".join([IMAGE_TOKEN] * len(images))) if images else ""
    turns = (Turn(speaker="human", text=question + places), Turn(speaker="gpt", text=answer))
    return Conversation(turns=turns, images=images)


def caption(text: str, images: tuple[Image.Image, ...]) -> Conversation:
    """The published alignment form: the image places alone, answered by the caption."""
    turns = (
        Turn(speaker="human", text=" ".join([IMAGE_TOKEN] * len(images))),
        Turn(speaker="gpt", text=text),
    )
    return Conversation(turns=turns, images=images)


def _play(
    patient: Patient,
    item: Item,
    replies: Sequence[str],
    truth: ExpertResult | None,
    grammar: Grammar,
    cards: str,
    dialect: Dialect,
) -> Transcript:
    asking = Asking(
        text=item.question,
        modality=patient.study.modality,
        images=views(patient.study, slice_index=item.slice_index),
        cards=cards,
        dialect=dialect,
    )
    said = iter(replies)
    dialogue = converse(asking, grammar)
    step = next(dialogue)
    while True:
        try:
            if isinstance(step, Consult):
                step = dialogue.send([Outcome(call=call, result=truth) for call in step.calls])
            else:
                step = dialogue.send(next(said))
        except StopIteration as finished:
            transcript: Transcript = finished.value
            return transcript


def _conversation(transcript: Transcript, further: Sequence[tuple[str, str]]) -> Conversation:
    messages = squash(transcript.messages)
    if messages[-1].role == "user":  # a segmentation shown to the reader, after which the model is not asked again
        messages = messages[:-1]
    said = [Turn(speaker="gpt" if m.role == "assistant" else "human", text=m.text) for m in messages]
    for question, answer in further:
        said += [Turn(speaker="human", text=question), Turn(speaker="gpt", text=answer)]
    return Conversation(turns=tuple(said), images=tuple(image for message in messages for image in message.images))
