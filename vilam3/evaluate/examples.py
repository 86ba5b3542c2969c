"""Conversations to look at: one question for each expert, as the model held it, with pictures."""

import json
from pathlib import Path
from typing import Any

from vilam3.artifacts import whole_directory, write_json
from vilam3.consultant import Consultant
from vilam3.data.intake import read_study
from vilam3.data.sample import Question
from vilam3.dialogue.drive import answer
from vilam3.dialogue.loop import Transcript
from vilam3.dialogue.messages import Message, Sampling
from vilam3.dialogue.record import expert_call
from vilam3.evaluate import metrics
from vilam3.evaluate.run import Examination, is_request

FILE = "conversation.json"


def write_examples(asked: Examination, asker: Consultant, out: Path) -> None:
    """Ask the first question that needs each expert and keep the conversations, right or wrong.

    Args:
        asked: The questions.
        asker: Model and experts.
        out: Directory to create: a folder for each conversation with its pictures and ``conversation.json``.
    """
    with whole_directory(out) as partial:
        for question in first_of_each_expert(asked):
            transcript = _hold(asked, asker, question)
            folder = partial / question.question_id
            folder.mkdir()
            write_json(folder / FILE, _record(question, transcript, folder))


def read_examples(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The conversations and the folders of their pictures, in order of modality."""
    found = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob(f"*/{FILE}")]
    return sorted(found, key=lambda one: (one[1]["modality"], one[1]["question_id"]))


def first_of_each_expert(asked: Examination) -> list[Question]:
    """The choice is by order alone, so that no conversation is picked for its outcome."""
    chosen: dict[str, Question] = {}
    for question in asked.questions:
        if question.expert and not is_request(question):
            chosen.setdefault(question.expert, question)
    return list(chosen.values())


def _hold(asked: Examination, asker: Consultant, question: Question) -> Transcript:
    study = read_study(asked.corpus / question.study, modality=question.modality)
    return answer(
        asker.asking(question.text, study, slice_index=question.slice_index),
        asker.engine,
        asker.ask_on(study, slice_index=question.slice_index),
        asker.grammar(),
        sampling=Sampling(max_new_tokens=asked.settings.max_new_tokens, task=asker.task_of(question.task)),
    )


def _record(question: Question, transcript: Transcript, folder: Path) -> dict[str, Any]:
    return {
        "question_id": question.question_id,
        "task": question.task,
        "modality": question.modality,
        "slice_index": question.slice_index,
        "question": question.text,
        "expected": question.answer,
        "answer": transcript.answer,
        "is_right": metrics.is_right(transcript.answer, expected=question.answer),
        "messages": [_message(message, index, folder) for index, message in enumerate(transcript.messages)],
        "expert_calls": [expert_call(outcome) for outcome in transcript.outcomes],
    }


def _message(message: Message, index: int, folder: Path) -> dict[str, Any]:
    names = [f"{index}-{number}.png" for number in range(len(message.images))]
    for name, image in zip(names, message.images, strict=True):
        image.save(folder / name)
    return {"role": message.role, "text": message.text, "images": names}
