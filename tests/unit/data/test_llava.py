"""Conversations in the published schema: read exactly, refused exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.data.llava import (
    check_images,
    read_questions,
    read_samples,
    stream_samples,
    write_questions,
    write_samples,
)
from vilam3.data.sample import Question, Sample, Turn
from vilam3.errors import DataError

TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a liver"}]


def write(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text(json.dumps(list(items), indent=1), encoding="utf-8")
    return path


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("keys", "images"),
    [
        ({"image": "a.png"}, ("a.png",)),
        ({"image": ["a.png"]}, ("a.png",)),
        ({"images": ["a.png"]}, ("a.png",)),
        ({"images": [{"path": "x/a.png"}]}, ("x/a.png",)),
        ({"image": None, "images": ["a.png"]}, ("a.png",)),
    ],
)
def test_every_published_way_to_name_images_is_read(
    tmp_path: Path, keys: dict[str, Any], images: tuple[str, ...]
) -> None:
    (sample,) = read_samples(write(tmp_path / "s.json", {"id": "7", "conversations": TURNS, **keys}))
    assert sample.images == images
    assert sample.turns[0] == Turn(speaker="human", text="<image>\nWhat is it?")


def test_an_image_that_the_text_does_not_place_goes_first(tmp_path: Path) -> None:
    item = {"image": "a.png", "conversations": conversation("What is it?", "a liver", "Sure?", "yes")}
    (sample,) = read_samples(write(tmp_path / "s.json", item))
    assert [turn.text for turn in sample.turns] == ["<image>\nWhat is it?", "a liver", "Sure?", "yes"]


def test_images_are_counted_over_the_whole_conversation(tmp_path: Path) -> None:
    item = {
        "images": ["a.png", "b.png"],
        "conversations": conversation("<image> And?", "so", "The results are <image>.", "no"),
    }
    assert len(read_samples(write(tmp_path / "s.json", item))[0].images) == 2


def test_ids_are_optional_and_may_be_numbers(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"conversations": conversation("a", "b")},
        {"id": 12, "conversations": conversation("a", "b")},
    ]
    path = write(tmp_path / "usmle.json", *items)
    assert [sample.sample_id for sample in read_samples(path)] == ["usmle-0", "12"]


def test_a_list_and_lines_read_the_same(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"id": str(number), "task": "t", "patient": "p", "conversations": conversation("ä", "b")} for number in range(5)
    ]
    listed = write(tmp_path / "s.json", *items)
    lines = tmp_path / "s.jsonl"
    lines.write_text("\n".join(json.dumps(item) for item in items) + "\n\n")
    assert read_samples(listed) == read_samples(lines)
    assert read_samples(listed)[3].task == "t"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "count": ({"images": ["a", "b"], "conversations": TURNS}, r"item 1: conversations: 1 <image> for 2 images"),
    "none placed": ({"images": ["a", "b"], "conversations": conversation("x", "y")}, r"1 <image> for 2 images"),
    "no image": ({"conversations": TURNS}, r"item 1: conversations: 1 <image> for 0 images"),
    "gpt first": ({"conversations": [{"from": "gpt", "value": "x"}]}, r"conversations\[0\]\.from: must be 'human'"),
    "twice human": ({"conversations": [TURNS[1] | {"from": "human"}] * 2}, r"conversations\[1\]\.from: must be 'gpt'"),
    "unanswered": ({"conversations": conversation("x")}, "ends with a human turn"),
    "no text": ({"conversations": [{"from": "human", "value": 3}]}, r"conversations\[0\]\.value: must be text"),
    "no turns": ({"conversations": []}, "conversations: must be a list of turns"),
    "missing": ({}, "conversations: must be a list of turns"),
    "turn": ({"conversations": ["x"]}, r"conversations\[0\]: must be an object"),
    "image type": ({"image": 3, "conversations": TURNS}, "image: must be a path"),
    "image entry": ({"images": [{"file": "x"}], "conversations": TURNS}, r"images\[0\]: must be a path"),
    "outside": ({"image": "../x.png", "conversations": TURNS}, r"image\[0\]: '\.\./x\.png' leads out"),
    "absolute": ({"image": "/x.png", "conversations": TURNS}, "leads out"),
    "both": ({"image": "a", "images": ["a"], "conversations": TURNS}, "images: given beside image"),
    "video": ({"video": "a.mp4", "conversations": TURNS}, "video: videos are not read"),
    "id": ({"id": [1], "conversations": conversation("x", "y")}, "id: must be text"),
    "task": ({"task": 1, "conversations": conversation("x", "y")}, "task: must be text"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_file_item_and_key(tmp_path: Path, case: str) -> None:
    item, words = BAD[case]
    good = {"conversations": conversation("x", "y")}
    with pytest.raises(DataError, match=words) as refused:
        read_samples(write(tmp_path / "s.json", good, item))
    assert str(refused.value).startswith("s.json: item 1: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("hello", "item 0: not valid JSON"),
        ('[{"a": 1}, 3]', "item 1: must be a JSON object|item 0"),
        ("[[1]]", "item 0: must be a JSON object"),
        ('{"a": 1}\n"x', "item"),
        ('[{"conversations": [{"from"', "item 0: not valid JSON, or the file was cut"),
        ("[1", "item 0"),
        ("[" * 100_000, "item 0"),
    ],
)
def test_files_that_are_no_list_of_objects_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_samples(path)


def test_a_cut_list_and_text_after_the_list_are_refused(tmp_path: Path) -> None:
    good = json.dumps({"conversations": conversation("x", "y")})
    path = tmp_path / "s.json"
    for text, words in (
        (f"[{good}", "ends within the list"),
        (f"[{good}] x", "after the end"),
        (f"[{good} {good}]", "expected"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_samples(path)
    path.write_bytes(b"[\xff\xfe]")
    with pytest.raises(DataError, match="not UTF-8"):
        read_samples(path)
    with pytest.raises(DataError, match="No such file"):
        read_samples(tmp_path / "none.json")


def test_missing_image_files_are_reported_together(tmp_path: Path) -> None:
    items = [{"image": f"{number}.png", "conversations": TURNS} for number in range(9)]
    path = write(tmp_path / "s.json", *items)
    (tmp_path / "4.png").touch()
    with pytest.raises(
        DataError, match=r"8 of 9 image files are missing: 0\.png, 1\.png, 2\.png, 3\.png, 5\.png, \.\.\."
    ):
        read_samples(path, images=tmp_path)
    check_images(read_samples(path)[4:5], root=tmp_path)


def test_a_large_file_is_read_item_by_item(tmp_path: Path) -> None:
    """The first sample is there before the rest is looked at: damage further on does not matter yet."""
    long = {"conversations": conversation("x" * 200_000, "y")}
    path = tmp_path / "s.json"
    path.write_text("[" + ",".join([json.dumps(long)] * 3) + ", nonsense")
    stream = stream_samples(path)
    assert len(next(stream).turns[0].text) == 200_000
    next(stream), next(stream)
    with pytest.raises(DataError, match="item 3"):
        next(stream)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: "<image>" not in text
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Any valid sample."""
    images = tuple(f"images/{number}.png" for number in range(draw(st.integers(0, 3))))
    texts = draw(st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
    texts[0] = "<image>" * len(images) + texts[0]
    turns = tuple(Turn(speaker="gpt" if index % 2 else "human", text=text) for index, text in enumerate(texts))
    return Sample(
        sample_id=draw(words), images=images, turns=turns, task=draw(st.sampled_from(["", "ct"])), patient="p"
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(samples(), max_size=4), st.sampled_from(["s.json", "s.jsonl"]))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample], name: str) -> None:
    path = tmp_path_factory.mktemp("llava") / name
    write_samples(path, wanted)
    if wanted or name == "s.json":
        assert read_samples(path) == wanted


QUESTION = Question(
    question_id="q1", task="ct_tumor", patient="p1", study="studies/p1", modality="CT", slice_index=7,
    text="Is there a hepatic tumor?", answer="yes", expert="VISTA3D", argument="hepatic tumor",
    facts={"contrast_hu": 35.5, "organ": "liver"},
)  # fmt: skip


def test_questions_are_lines_and_read_back(tmp_path: Path) -> None:
    write_questions(tmp_path / "q.jsonl", [QUESTION, QUESTION])
    assert (tmp_path / "q.jsonl").read_text().count("\n") == 2
    assert read_questions(tmp_path / "q.jsonl") == [QUESTION, QUESTION]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modality": "PET"}, "item 0: modality"),
        ({"text": None}, "item 0: text"),
        ({"slice_index": "x"}, "item 0: slice_index"),
        ({"colour": 1}, "item 0: colour: unknown key"),
    ],
)
def test_bad_questions_name_file_line_and_key(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_questions(tmp_path / "q.jsonl", [QUESTION])
    record = json.loads((tmp_path / "q.jsonl").read_text()) | change
    (tmp_path / "q.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=words):
        read_questions(tmp_path / "q.jsonl")
