"""The finished answer and the shape in which it leaves: OpenAI's chat completion with our fields beside it."""

from dataclasses import dataclass
from typing import Any

from serving.wire import MODEL_NAME, Usage
from vilam3.dialogue.record import NOTICE, with_notes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEnded:
    """An expert call came to its end; `record` is what the answer will say about it."""

    index: int
    record: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The whole answer.

    Attributes:
        answer_id: Handle of what is kept of it.
        created: Unix time.
        text: The last reply.
        notes: What the reader must know besides.
        finish_reason: OpenAI's.
        expert_calls: One record a call.
        usage: Tokens of all rounds.
        provenance: What it was made with.
        warnings: What the reader of the study noticed.
        service_tier: OpenAI's: ``priority`` where it went before others.
    """

    answer_id: str
    created: int
    text: str
    notes: list[str]
    finish_reason: str
    expert_calls: list[dict[str, Any]]
    usage: Usage
    provenance: dict[str, Any]
    warnings: list[str]
    service_tier: str = "default"

    @property
    def content(self) -> str:
        """The text with its notes, for a reader who sees nothing else."""
        return with_notes(self.text, self.notes)


def completion(answered: Answered) -> dict[str, Any]:
    """The answer as OpenAI's chat completion with our fields beside it."""
    message = {
        "role": "assistant",
        "content": answered.content,
        "refusal": None,
        "expert_calls": answered.expert_calls,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish_reason}
    return {
        "id": answered.answer_id,
        "object": "chat.completion",
        "created": answered.created,
        "model": MODEL_NAME,
        "choices": [choice],
        "usage": answered.usage.model_dump(),
        "service_tier": answered.service_tier,
        **beside(answered),
    }


def beside(answered: Answered) -> dict[str, Any]:
    """Our own fields of an answer."""
    return {
        "answer": answered.text,
        "expert_calls": answered.expert_calls,
        "notes": answered.notes,
        "warnings": answered.warnings,
        "provenance": answered.provenance,
        "notice": NOTICE,
    }
