"""What happens in a dialogue, as its driver tells it."""

from dataclasses import dataclass

from vilam3.dialogue.loop import Outcome
from vilam3.dialogue.messages import Generation
from vilam3.experts.protocol import ExpertCall


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Some more text of the reply of this round."""

    round_index: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFinished:
    """The reply of this round is whole, or was cut short."""

    round_index: int
    generation: Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertStarted:
    """An expert begins; `index` counts the expert calls of the whole answer."""

    index: int
    round_index: int
    call: ExpertCall


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertProgressed:
    """So much of an expert's work is done, 0 to 1."""

    index: int
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFinished:
    """An expert call came to its end, well or not."""

    index: int
    round_index: int
    outcome: Outcome
    seconds: float


Event = TextPiece | ReplyFinished | ExpertStarted | ExpertProgressed | ExpertFinished
