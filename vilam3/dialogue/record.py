"""What became of an expert call, as plain JSON, the same for the server, `vilam3 ask` and the report."""

from dataclasses import asdict
from typing import Any

from vilam3.dialogue.loop import Outcome, Transcript
from vilam3.dialogue.prompts import failure

UNREADABLE = "?"  # the loop's name for a call that names no expert or argument at hand
NOTICE = "Draft for a clinician; research use only"


def expert_call(outcome: Outcome, *, round_index: int | None = None, seconds: float | None = None) -> dict[str, Any]:
    """The record of one call.

    Args:
        outcome: The call with its result or error.
        round_index: Round of the dialogue, from 0.
        seconds: How long the caller waited for it.
    """
    record: dict[str, Any] = {
        "expert": outcome.call.expert,
        "argument": outcome.call.argument,
        "round": round_index,
        "text": "",
        "error": outcome.error or None,
        "seconds": seconds,
        "overlay_url": None,
        "mask_url": None,
        "segmentation_url": None,
        "colors": {},
        "labels": {},
        "measurements": [],
        "scores": {},
        "provenance": None,
        "cached": False,
    }
    if outcome.result is not None:
        record |= {
            "text": outcome.result.text,
            "colors": dict(outcome.result.colors),
            "labels": {str(label_id): name for label_id, name in outcome.result.labels.items()},
            "measurements": [asdict(measurement) for measurement in outcome.result.measurements],
            "scores": dict(outcome.result.scores),
            "provenance": asdict(outcome.result.provenance),
            "cached": outcome.result.is_remembered,
        }
    return record


def notes(transcript: Transcript, *, max_rounds: int, deadline_s: float | None = None) -> list[str]:
    """What the reader must know to weigh the answer: experts that failed, and why it ended early."""
    said = [_failed(outcome) for outcome in transcript.outcomes if outcome.result is None]
    if transcript.ending == "rounds":
        said.append(f"The limit of {max_rounds} expert rounds was reached; the last reply stands as the answer.")
    if transcript.ending == "deadline":
        limit = "" if deadline_s is None else f" of {deadline_s:g} s"
        said.append(f"The time limit{limit} was reached; this answer is incomplete.")
    if transcript.ending == "cancelled":
        said.append("The question was withdrawn; this answer is incomplete.")
    return said


def _failed(outcome: Outcome) -> str:
    if outcome.call.expert == UNREADABLE:
        return f"The model called an expert in vain: {outcome.error}"
    return failure(outcome.call.expert, outcome.error).strip()


def with_notes(answer: str, said: list[str]) -> str:
    """The answer with its notes in brackets, for a reader who sees nothing else."""
    return "\n\n".join([*([answer] if answer else []), *(f"[{note}]" for note in said)])
