"""The state that travels through an inference graph: a chat request, and all that was said since.

A step gets the whole state and gives the whole state back, because a graph's router replaces bodies and merges
nothing. The state names the experts the newest reply called; a finished one leaves as the completion itself.
"""

from typing import Annotated, Any

from pydantic import Field

from serving.wire import MOST_ROUNDS, ChatRequest, Closed, Usage
from vilam3.data.sample import Dialect, Modality
from vilam3.dialogue.loop import Outcome
from vilam3.dialogue.record import expert_call
from vilam3.experts.protocol import ExpertCall
from vilam3.services.findings import Finding

MOST_CALLS = 16


class Call(Closed):
    """An expert that is asked for."""

    expert: str
    argument: str = ""

    def parsed(self) -> ExpertCall:
        """As the dialogue takes it."""
        return ExpertCall(expert=self.expert, argument=self.argument)


class Told(Closed):
    """What became of one call."""

    expert: str
    argument: str = ""
    finding: Finding | None = None
    error: str = ""
    seconds: float | None = None

    def outcome(self) -> Outcome:
        """As the dialogue takes it.

        Raises:
            DataError: the overlay is damaged.
        """
        call = ExpertCall(expert=self.expert, argument=self.argument)
        return Outcome(call=call, result=self.finding.result() if self.finding else None, error=self.error)

    def record(self, round_index: int) -> dict[str, Any]:
        """What the answer says about it; the overlay is in it, the segmentation stays in the store."""
        record = expert_call(self.outcome(), round_index=round_index, seconds=self.seconds)
        if self.finding is not None:
            record["overlay_url"] = self.finding.overlay
            record["mask_reference"] = self.finding.mask
        return record


class LookedAt(Closed):
    """The study that experts look at: where it is, what it is read as, and in which wording they answer."""

    reference: str
    digest: str
    modality: Modality
    dialect: Dialect = "demo"


class Round(Closed):
    """One reply of the model, and what the experts it called said to it."""

    reply: str
    told: Annotated[list[Told], Field(default_factory=list, max_length=MOST_CALLS)]


class State(ChatRequest):
    """A question on its way through a graph.

    Attributes:
        study: Reference of the newest message's study in the store, in place of a picture in it.
        looked_at: The study that experts look at; the first step says so.
        answer_id: Of the answer that will be.
        said: Rounds so far; the last one may still lack its experts.
        calls: What the newest reply asks for and nobody has answered.
        expert: The next expert to ask; a graph switches by it. None when the model's turn has come.
        rounds_left: Expert rounds that may still follow.
        usage: Tokens so far.
        answer: None as long as there is no answer; the completion holds it.
        expert_calls: Records of the calls so far.
        model_digest: Of the weights that gave the newest reply.
    """

    study: str | None = None
    looked_at: LookedAt | None = None
    answer_id: str | None = None
    said: Annotated[list[Round], Field(default_factory=list, max_length=MOST_ROUNDS + 1)]
    calls: Annotated[list[Call], Field(default_factory=list, max_length=MOST_CALLS)]
    expert: str | None = None
    rounds_left: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] | None = None
    usage: Usage = Usage()
    answer: None = None
    expert_calls: list[dict[str, Any]] = Field(default_factory=list)
    model_digest: str = ""

    def answered(self, told: Told) -> "State":
        """With one more outcome of the newest round; the next unanswered call comes to the front."""
        *earlier, newest = self.said
        newest = newest.model_copy(update={"told": [*newest.told, told]})
        left = [call for call in self.calls if (call.expert, call.argument) != (told.expert, told.argument)]
        update = {
            "said": [*earlier, newest],
            "calls": left,
            "expert": left[0].expert if left else None,
            "expert_calls": [*self.expert_calls, told.record(len(earlier))],
        }
        return self.model_copy(update=update)
