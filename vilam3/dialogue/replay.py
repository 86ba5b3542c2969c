"""Takes a dialogue up where it stands, from what was said in it: for steps that keep nothing between two requests."""

from collections.abc import Sequence
from typing import cast

from vilam3.dialogue.loop import Asking, Outcome, Step, Transcript, converse
from vilam3.errors import DataError
from vilam3.experts.trigger import Grammar


def replay(asking: Asking, grammar: Grammar, said: Sequence[str | Sequence[Outcome]]) -> Step | Transcript:
    """What the dialogue needs next after `said`, or the transcript when that was all.

    Args:
        asking: The question.
        grammar: Finds triggers in replies.
        said: Replies of the model and outcomes of the experts, in turn.

    Raises:
        DataError: `said` does not belong to this question.
    """
    dialogue = converse(asking, grammar)
    reached: Step | Transcript = next(dialogue)
    for turn in said:
        if isinstance(reached, Transcript) or isinstance(turn, str) != hasattr(reached, "messages"):
            raise DataError("dialogue: what was said does not follow from the question; begin again")
        try:
            reached = dialogue.send(turn)
        except StopIteration as end:
            reached = cast("Transcript", end.value)
    return reached
