"""`vilam3 model`: probing, converting and inspecting from the command line."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vilam3.cli import model as verb
from vilam3.errors import CheckpointError, DataError
from vilam3.model.checkpoint import Loaded, fresh, layout_of, save
from vilam3.model.config import VilaConfig
from vilam3.model.images import pixels_NCHW
from vilam3.model.tokenizer import PieceTokenizer


def _run(*argv: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.register(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in argv])
    code: int = arguments.run(arguments)
    return code


@pytest.fixture
def cases(tmp_path: Path, pictures: tuple[Image.Image, ...]) -> Path:
    """Two images in a conversation, and raw ids."""
    pictures[0].save(tmp_path / "a.png")
    pictures[1].save(tmp_path / "b.png")
    text = {"type": "text", "text": "<image>Is there a tumor? <image>"}
    images = {"type": "image_path", "image_path": ["a.png", str(tmp_path / "b.png")]}
    lines: list[dict[str, Any]] = [
        {"name": "talk", "messages": [{"role": "user", "content": [text, images]}]},
        {"name": "ids", "input_ids": [3, -200, 4], "images": ["b.png"]},
    ]
    return _write(tmp_path / "cases.jsonl", *lines)


def _write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def _read(out: Path, name: str) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    with np.load(out / f"{name}.npz") as arrays:
        assert list(arrays) == ["last_logprobs"]
        return json.loads((out / f"{name}.json").read_text()), arrays["last_logprobs"]


def test_a_probe_holds_the_models_own_numbers(
    loaded: Loaded, saved: Path, cases: Path, pictures: tuple[Image.Image, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert _run("model", "probe", "--checkpoint", saved, "--input", cases, "--out", out, "--greedy", "5") == 0
    record, logprobs = _read(out, "talk")
    assert sorted(record) == ["greedy_ids", "input_ids", "n_embedded", "prompt"]
    assert record["prompt"].endswith("tumor? <image><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert record["input_ids"] == loaded.tokenizer.encode_with_images(record["prompt"])
    assert record["n_embedded"] == len(record["input_ids"]) + 2 * 3
    assert len(record["greedy_ids"]) == 5
    with torch.no_grad():
        logits = loaded.model(torch.tensor([record["input_ids"]]), pixels_NCHW(pictures[:2], loaded.config)).logits_BLV
    assert logprobs.dtype == np.float32
    assert logprobs.shape == (loaded.config.llm.vocab_size,)
    assert np.abs(logprobs - logits[0, -1].log_softmax(-1).numpy()).max() < 1e-4
    assert record["greedy_ids"][0] == int(logprobs.argmax())
    raw, _ = _read(out, "ids")
    assert (raw["prompt"], raw["input_ids"], raw["n_embedded"]) == (None, [3, -200, 4], 6)


@pytest.mark.parametrize(
    ("flags", "end"), [([], "USER: q "), (["--cue"], "USER: q ASSISTANT:"), (["--no-cue"], "USER: q ")]
)
def test_vicuna_gets_no_cue_unless_asked(
    slow: PieceTokenizer, config: VilaConfig, tmp_path: Path, flags: list[str], end: str
) -> None:
    """As in the published demo, which cues llama_3 only."""
    save(fresh(config, slow, template="v1"), tmp_path / "v1")
    cases = _write(
        tmp_path / "c.jsonl", {"name": "q", "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}
    )
    out = tmp_path / "out"
    arguments = ("--checkpoint", tmp_path / "v1", "--input", cases, "--out", out, "--template", "vicuna_v1")
    assert _run("model", "probe", *arguments, *flags) == 0
    assert _read(out, "q")[0]["prompt"].endswith(end)


USER_Q = {"role": "user", "content": [{"type": "text", "text": "<image>"}]}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "holds no case"),
        ([{"name": "a"}], "line 1"),
        ([{"name": "../a", "input_ids": [1]}], "line 1 .*name: String should match pattern"),
        ([{"name": "a", "input_ids": [1], "extra": 1}], "line 1 .*extra: Extra inputs are not permitted"),
        ([{"name": "a", "input_ids": [1]}, {"name": "a", "input_ids": [1]}], "line 2: the name 'a' is used twice"),
        ([{"name": "a", "input_ids": [9999]}], "case a: token id 9999 is outside the vocabulary"),
        ([{"name": "a", "input_ids": [1] * 401}], "case a: prompt: takes 401 positions .* the context holds 400"),
        ([{"name": "a", "messages": [USER_Q]}], "case a: has 1 <image> places but 0 images"),
        ([{"name": "a", "input_ids": [-200], "images": ["no.png"]}], r"case a: .*no\.png: not a readable image"),
        ([{"name": "a", "input_ids": [-200], "images": ["cases.jsonl"]}], "not a readable image"),
    ],
)
def test_a_bad_case_is_named_and_nothing_is_written(
    saved: Path, tmp_path: Path, lines: list[dict[str, Any]], says: str
) -> None:
    cases = _write(tmp_path / "cases.jsonl", *lines)
    with pytest.raises(DataError, match=says):
        _run("model", "probe", "--checkpoint", saved, "--input", cases, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_not_json_is_named(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"name": \n')
    with pytest.raises(DataError, match=r"c\.jsonl line 1: not JSON"):
        _run("model", "probe", "--checkpoint", saved, "--input", tmp_path / "c.jsonl", "--out", tmp_path / "out")
    with pytest.raises(DataError, match="not a readable text file"):
        _run("model", "probe", "--checkpoint", saved, "--input", tmp_path / "no.jsonl", "--out", tmp_path / "out")


def test_probing_again_replaces_the_output_but_nothing_else(saved: Path, cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        _run("model", "probe", "--checkpoint", saved, "--input", cases, "--out", out, "--greedy", "1")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not the output of an earlier probe"):
        _run("model", "probe", "--checkpoint", saved, "--input", cases, "--out", out)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_unknown_template_is_refused(saved: Path, cases: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="template 'x': unknown"):
        _run("model", "probe", "--checkpoint", saved, "--input", cases, "--out", tmp_path / "o", "--template", "x")


def test_convert_and_inspect(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = tmp_path / "flat"
    assert _run("model", "convert", saved, "--out", flat, "--layout", "flat") == 0
    assert layout_of(flat) == "flat"
    assert _run("model", "inspect", flat) == 0
    printed = capsys.readouterr().out
    for fact in (
        "Llama, 2 layers",
        "SigLIP, 3 layers",
        "4 tokens per image",
        "missing         none",
        "no licence file",
    ):
        assert fact in printed
    assert _run("model", "inspect", flat, "--json") == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "flat"


def test_inspect_ends_with_2_where_the_checkpoint_would_not_load(undigested: Path) -> None:
    config = json.loads((undigested / "llm/config.json").read_text())
    (undigested / "llm/config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert _run("model", "inspect", undigested) == 2
