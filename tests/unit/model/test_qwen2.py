"""What NVILA reads: Qwen2's tokenizer around images, and the conversation template with what is learned of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from transformers import Qwen2Tokenizer

from vilam3.data.sample import Turn
from vilam3.model.byte_level import markers_of
from vilam3.model.chat import encode_training, render, template
from vilam3.model.config import IGNORED_LABEL, IMAGE_TOKEN_ID
from vilam3.model.tokenizer import PieceTokenizer, from_files

TALK = (
    Turn(speaker="human", text="<image> This is a CT image.\nIs there a tumor? "),
    Turn(speaker="gpt", text=" Let me trigger <VISTA3D(hepatic tumor)>."),
    Turn(speaker="human", text="The results are <image>. Use them."),
    Turn(speaker="gpt", text="yes"),
)
ROLES = {"human": "user", "gpt": "assistant"}


def _published(turns: tuple[Turn, ...], *, cue: bool, system: str | None = None) -> str:
    """The published template by the library it is written for; messages are stripped first, as that code does."""
    jinja = Environment(autoescape=False).from_string(template("qwen2").jinja)  # noqa: S701 - no page is made of it
    said = [{"role": ROLES[turn.speaker], "content": turn.text.strip()} for turn in turns]
    first = [] if system is None else [{"role": "system", "content": system}]
    return jinja.render(messages=first + said, add_generation_prompt=cue)


@pytest.mark.parametrize("system", [None, "", "You read scans."])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_wording_is_that_of_the_published_template(length: int, system: str | None) -> None:
    turns, cue = TALK[:length], length % 2 == 1
    said = [("user" if turn.speaker == "human" else "assistant", turn.text) for turn in turns]
    rendered = render(said, template("qwen2"), cue=cue, system_prompt=system)  # type: ignore[arg-type]  # speakers
    assert rendered.text == _published(turns, cue=cue, system=system)


def test_answers_and_their_end_are_learned_and_nothing_else(qwen2: PieceTokenizer) -> None:
    with_end = qwen2.with_image_end("\n")
    encoded = encode_training(TALK, with_end, "qwen2", max_tokens=400, tokens_per_image=4)
    end = qwen2.token_id("<|im_end|>")
    learned = [index for index in encoded.labels if index != IGNORED_LABEL]
    assert end is not None
    assert learned.count(end) == 2
    texts = [qwen2.decode(part) for part in _split(learned, end)]
    assert texts == [turn.text.strip() for turn in TALK if turn.speaker == "gpt"]
    places = [place for place, index in enumerate(encoded.input_ids) if index == IMAGE_TOKEN_ID]
    line_break = qwen2.backend.encode("\n")[0]
    assert len(places) == 2
    assert all(encoded.input_ids[place + 1 : place + 2] == line_break for place in places)


def _split(ids: list[int], end: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for index in ids:
        if index == end:
            parts.append([])
        else:
            parts[-1].append(index)
    return [part for part in parts if part]


def test_an_image_in_an_answer_is_not_learned_nor_what_follows_it_of_its_own(qwen2: PieceTokenizer) -> None:
    turns = (Turn(speaker="human", text="show"), Turn(speaker="gpt", text="<image> here"))
    with_end = qwen2.with_image_end("\n")
    encoded = encode_training(turns, with_end, "qwen2", max_tokens=400, tokens_per_image=4)
    place = encoded.input_ids.index(IMAGE_TOKEN_ID)
    assert encoded.labels[place : place + 2] == [IGNORED_LABEL] * 2
    assert encoded.labels[place + 2] == encoded.input_ids[place + 2]


@pytest.mark.parametrize("from_merges", [False, True])
def test_pieces_around_images_are_what_the_published_tokenizer_makes_of_the_whole(
    qwen2: PieceTokenizer, from_merges: bool
) -> None:
    """Transformers' own Qwen2, with the image as a marker in its vocabulary, on the text undivided."""
    model = json.loads(qwen2.files["tokenizer.json"])["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    reference = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    special = markers_of("qwen2").special
    reference.add_tokens(list(special), special_tokens=True)
    ours = _by_merges(qwen2, model) if from_merges else qwen2
    image = reference.convert_tokens_to_ids("<image>")
    text = "<|im_start|>user\nIs <image>\n there a\u0301 <image><image>tumor? 12345<|im_end|>\n"
    expected = [IMAGE_TOKEN_ID if index == image else index for index in reference(text)["input_ids"]]
    assert ours.encode_with_images(text) == expected


def _by_merges(tokenizer: PieceTokenizer, model: dict[str, Any]) -> PieceTokenizer:
    """The same tokenizer from the two files that older releases hold instead of one."""
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"])
    added = {token: len(model["vocab"]) + place for place, token in enumerate(markers_of("qwen2").special)}
    files = {
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": merges.encode(),
        "added_tokens.json": json.dumps(added).encode(),
        "tokenizer_config.json": tokenizer.files["tokenizer_config.json"],
    }
    return from_files(files, where=Path("merges"))
