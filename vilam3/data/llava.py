"""Training conversations in the LLaVA JSON schema, and evaluation questions as JSON Lines.

A file is a JSON list or JSON Lines; either is read item by item, so that a file of any size fits. Two keys go beyond
the published schema, `task` and `patient`; unknown keys are passed over. Knows no tokenizer and decodes no image.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vilam3.artifacts import whole_file
from vilam3.data.json_items import json_items
from vilam3.data.sample import IMAGE_TOKEN, Question, Sample, Turn
from vilam3.errors import DataError

SPEAKERS = ("human", "gpt")
SHOWN_MISSING = 5
QUESTION_KEYS = frozenset(field.name for field in dataclasses.fields(Question))
_QUESTION = TypeAdapter(Question)


def read_samples(path: Path, *, images: Path | None = None) -> list[Sample]:
    """Read all conversations of a file.

    Args:
        path: JSON list or JSON Lines.
        images: Root of the image paths; when given, all images must be there.

    Raises:
        DataError: names file, item and key; missing images are reported together.
    """
    samples = list(stream_samples(path))
    if images is not None:
        check_images(samples, root=images)
    return samples


def stream_samples(path: Path) -> Iterator[Sample]:
    """Yield the conversations of a file one by one.

    Raises:
        DataError: names file, item and key.
    """
    for index, item in enumerate(json_items(path)):
        yield sample_of(item, default_id=f"{path.stem}-{index}", where=f"{path.name}: item {index}")


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write conversations as a JSON list, or as JSON Lines if the name ends in `.jsonl`; whole or not at all.

    Raises:
        ArtifactError: it cannot be written.
    """
    lines = path.name.endswith(".jsonl")
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as out:
        if not lines:
            out.write("[")
        for index, sample in enumerate(samples):
            text = json.dumps(record_of(sample), ensure_ascii=False)
            out.write(f"{text}\n" if lines else f"{',' if index else ''}\n{text}")
        if not lines:
            out.write("\n]\n")


def sample_of(item: Mapping[str, Any], *, default_id: str, where: str) -> Sample:
    """One conversation from its JSON object.

    Args:
        item: As the schema has it.
        default_id: Its name where it states none.
        where: For messages.

    Raises:
        DataError: names `where` and the key.
    """
    if item.get("video") is not None:
        raise DataError(f"{where}: video: videos are not read; use image or images")
    images = _images(item, where)
    turns = _turns(item.get("conversations"), where)
    num_marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if images and not num_marks:
        # as published: an image that the text does not place goes first
        turns = (Turn(speaker="human", text=f"{IMAGE_TOKEN}\n{turns[0].text}"), *turns[1:])
        num_marks = 1
    if num_marks != len(images):
        raise DataError(
            f"{where}: conversations: {num_marks} {IMAGE_TOKEN} for {len(images)} images; write one for each image"
        )
    sample_id = item.get("id")
    if isinstance(sample_id, bool) or not isinstance(sample_id, str | int | None):
        raise DataError(f"{where}: id: must be text or a whole number")
    return Sample(
        sample_id=default_id if sample_id is None else str(sample_id),
        images=images,
        turns=turns,
        task=_text(item, "task", where),
        patient=_text(item, "patient", where),
    )


def record_of(sample: Sample) -> dict[str, Any]:
    """The JSON object of a conversation."""
    record: dict[str, Any] = {"id": sample.sample_id}
    if len(sample.images) == 1:
        record["image"] = sample.images[0]
    elif sample.images:
        record["images"] = list(sample.images)
    record["conversations"] = [{"from": turn.speaker, "value": turn.text} for turn in sample.turns]
    extras = {"task": sample.task, "patient": sample.patient}
    return record | {key: value for key, value in extras.items() if value}


def check_images(samples: Iterable[Sample], *, root: Path) -> None:
    """Refuse samples whose image files are not below `root`.

    Raises:
        DataError: counts the missing files and names the first few.
    """
    wanted = sorted({image for sample in samples for image in sample.images})
    missing = [image for image in wanted if not (root / image).is_file()]
    if missing:
        shown = ", ".join(missing[:SHOWN_MISSING]) + (", ..." if len(missing) > SHOWN_MISSING else "")
        raise DataError(f"{root}: {len(missing)} of {len(wanted)} image files are missing: {shown}")


def read_questions(path: Path) -> list[Question]:
    """Read evaluation questions, one JSON object a line.

    Raises:
        DataError: names file, item and key.
    """
    return [_question(item, where=f"{path.name}: item {index}") for index, item in enumerate(json_items(path))]


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as JSON Lines, whole or not at all.

    Raises:
        ArtifactError: it cannot be written.
    """
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as out:
        for question in questions:
            record = dataclasses.asdict(dataclasses.replace(question, facts=dict(question.facts)))
            out.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _question(item: Mapping[str, Any], *, where: str) -> Question:
    unknown = sorted(set(item) - QUESTION_KEYS)
    if unknown:
        raise DataError(f"{where}: {unknown[0][:40]}: unknown key; a question has {', '.join(sorted(QUESTION_KEYS))}")
    try:
        return _QUESTION.validate_python(item)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "object"
        raise DataError(f"{where}: {key}: {first['msg']}; correct the line") from error


def _images(item: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Image paths from `image` (text or list) or `images` (list of text or of objects with `path`)."""
    given = [key for key in ("image", "images") if item.get(key) is not None]
    if len(given) > 1:
        raise DataError(f"{where}: images: given beside image; keep one of them")
    if not given:
        return ()
    (key,) = given
    value = item[key]
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise DataError(f"{where}: {key}: must be a path or a list of paths")
    return tuple(_image(entry, f"{where}: {key}[{number}]") for number, entry in enumerate(entries))


def _image(entry: object, where: str) -> str:
    path = entry.get("path") if isinstance(entry, dict) else entry
    if not isinstance(path, str) or not path:
        raise DataError(f"{where}: must be a path or an object with path")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise DataError(f"{where}: {path!r} leads out of the image folder; use a path relative to it")
    return path


def _turns(value: object, where: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: conversations: must be a list of turns, human first")
    turns = []
    for number, entry in enumerate(value):
        place = f"{where}: conversations[{number}]"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: must be an object with from and value")
        expected = SPEAKERS[number % 2]
        if entry.get("from") != expected:
            raise DataError(f"{place}.from: must be {expected!r}; human and gpt alternate, human first")
        if not isinstance(entry.get("value"), str):
            raise DataError(f"{place}.value: must be text")
        turns.append(Turn(speaker="gpt" if number % 2 else "human", text=entry["value"]))
    if len(turns) % 2:
        raise DataError(f"{where}: conversations: ends with a human turn, so there is nothing to learn; add the answer")
    return tuple(turns)


def _text(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key, "")
    if not isinstance(value, str):
        raise DataError(f"{where}: {key}: must be text")
    return value
