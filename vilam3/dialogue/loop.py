"""The bounded expert loop, free of input and output.

`converse` is a generator: it yields what it needs (`Generate` or `Consult`) and is sent the outcome. The server drives
it with a streaming engine, evaluation drives many at once in batches, and the corpus is written by driving it with
scripted replies; so all three use the same words.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from vilam3.data.sample import Dialect, Modality
from vilam3.dialogue.messages import Message, squash
from vilam3.dialogue.prompts import failure, follow_up, opening
from vilam3.errors import ExpertError
from vilam3.experts.protocol import ExpertCall, ExpertResult
from vilam3.experts.trigger import Grammar

Ending = Literal["answered", "segmented", "rounds", "deadline", "cancelled"]  # the last two come from the driver
SILENCING_WORD = "segmented"  # the published demo asks no second time after this word


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Needs a reply of the language model; send it back as text."""

    messages: tuple[Message, ...]
    round_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Consult:
    """Needs these experts; send back one `Outcome` for each call, in order."""

    calls: tuple[ExpertCall, ...]
    round_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one expert call: a result, or the reason there is none."""

    call: ExpertCall
    result: ExpertResult | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """The finished conversation.

    Attributes:
        messages: Everything said, history included, roles kept apart.
        answer: The text for the reader.
        outcomes: Every expert call, in order.
        ending: Why it ended.
    """

    messages: tuple[Message, ...]
    answer: str
    outcomes: tuple[Outcome, ...]
    ending: Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """One question about one study.

    Attributes:
        text: As the user typed it.
        modality: Of the study.
        images: Rendered views: one slice or radiograph, or the four MR sequences.
        cards: Model cards, or empty to ask without experts.
        history: Earlier messages of the conversation.
        dialect: See `vilam3.dialogue.prompts`.
        max_rounds: Most expert rounds before the last reply stands as the answer.
    """

    text: str
    modality: Modality
    images: tuple[Image.Image, ...] = ()
    cards: str = ""
    history: tuple[Message, ...] = ()
    dialect: Dialect = "demo"
    max_rounds: int = 4


Step = Generate | Consult


def converse(asking: Asking, grammar: Grammar) -> Generator[Step, str | Sequence[Outcome], Transcript]:
    """Run one question to its answer.

    Yields:
        `Generate`, to be sent the model's reply; `Consult`, to be sent the outcomes.
    """
    first = opening(
        asking.text,
        modality=asking.modality,
        num_images=len(asking.images),
        cards=asking.cards,
        dialect=asking.dialect,
    )
    messages = [*asking.history, Message(role="user", text=first, images=asking.images)]
    outcomes: list[Outcome] = []
    for round_index in range(asking.max_rounds + 1):
        reply = yield Generate(messages=tuple(squash(messages)), round_index=round_index)
        assert isinstance(reply, str)
        messages.append(Message(role="assistant", text=reply))
        calls, error = _calls(reply, grammar) if asking.cards else ((), "")
        if not calls and not error:
            return _end(messages, outcomes, "answered")
        if round_index == asking.max_rounds:
            return _end(messages, outcomes, "rounds")
        if error:
            answered: Sequence[Outcome] = (Outcome(call=ExpertCall(expert="?"), error=error),)
        else:
            received = yield Consult(calls=calls, round_index=round_index)
            assert not isinstance(received, str)
            answered = received
        outcomes.extend(answered)
        messages.extend(_spoken(outcome) for outcome in answered)
        if SILENCING_WORD in reply:
            return _end(messages, outcomes, "segmented")
        instruction = follow_up(asking.text, modality=asking.modality, dialect=asking.dialect)
        messages.append(Message(role="expert", text=instruction))
    raise AssertionError("unreachable: the last round returns")


def _calls(reply: str, grammar: Grammar) -> tuple[tuple[ExpertCall, ...], str]:
    try:
        return grammar.parse(reply), ""
    except ExpertError as error:
        return (), str(error)


def _spoken(outcome: Outcome) -> Message:
    if outcome.result is None:
        return Message(role="expert", text=failure(outcome.call.expert, outcome.error))
    overlay = outcome.result.overlay
    return Message(role="expert", text=outcome.result.text, images=() if overlay is None else (overlay,))


def _end(messages: list[Message], outcomes: list[Outcome], ending: Ending) -> Transcript:
    answer = next(message.text for message in reversed(messages) if message.role == "assistant")
    return Transcript(messages=tuple(messages), answer=answer, outcomes=tuple(outcomes), ending=ending)
