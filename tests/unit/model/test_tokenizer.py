"""Both tokenizers: the slow one against what the published code makes of the same texts, the fast one by its rules."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilam3.data.sample import Turn
from vilam3.errors import CheckpointError
from vilam3.model.byte_level import markers_of
from vilam3.model.chat import encode_training
from vilam3.model.detokenise import Detokeniser
from vilam3.model.tokenizer import PieceTokenizer, from_files, load_tokenizer, train_tiny

TEXT = st.text(alphabet=st.sampled_from("abc tumor\n▁<>/s.é漢😀"), max_size=30)


def test_slow_ids_are_the_published_ones(slow: PieceTokenizer, golden: dict[str, Any]) -> None:
    for text, ids in golden["encodings"].items():
        assert slow.backend.encode(text)[0] == ids, text


def test_slow_pieces_around_images_are_the_published_ones(slow: PieceTokenizer, golden: dict[str, Any]) -> None:
    for text, ids in golden["with_images"].items():
        assert slow.encode_with_images(text) == ids, text


def test_slow_decoding_is_the_published_one(slow: PieceTokenizer, golden: dict[str, Any]) -> None:
    for ids, text in golden["decodings"]:
        assert slow.decode(ids) == text


def test_slow_training_ids_and_labels_are_the_published_ones(slow: PieceTokenizer, golden: dict[str, Any]) -> None:
    """By token spans we reach the very labels that the published code finds by matching sentinels."""
    for case in golden["training"]:
        turns = [Turn(speaker=speaker, text=text) for speaker, text in case["turns"]]
        encoded = encode_training(turns, slow, "v1", max_tokens=4096, tokens_per_image=196)
        assert encoded.input_ids == case["input_ids"]
        assert encoded.labels == case["labels"]


def test_special_ids_come_from_the_tokenizer(tokenizer: PieceTokenizer, slow: PieceTokenizer) -> None:
    assert (slow.bos_id, slow.eos_id, slow.pad_id) == (1, 2, 0)
    bos, eos, _, _, _, pad = (tokenizer.token_id(token) for token in markers_of("llama_3").special)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (bos, eos, pad)
    assert pad == len(tokenizer) - 1


def test_a_tokenizer_survives_saving_byte_for_byte(
    tokenizer: PieceTokenizer, slow: PieceTokenizer, tmp_path: Path
) -> None:
    for index, one in enumerate((tokenizer, slow)):
        folder = tmp_path / str(index)
        folder.mkdir()
        one.save(folder)
        again = load_tokenizer(folder)
        assert again.files == one.files
        assert again.encode_with_images("a <image> tumor?") == one.encode_with_images("a <image> tumor?")


def test_training_is_repeatable() -> None:
    texts = ["Is there a tumor?", "yes no yes", "the liver"] * 3
    assert train_tiny(texts, vocab_size=300).files == train_tiny(texts, vocab_size=300).files


def test_phrases_are_one_piece_each_and_survive_saving(tmp_path: Path) -> None:
    phrase = "These are different MRI modalities.\n"
    train_tiny(["Is there a tumor?"], vocab_size=300, phrases=[phrase]).save(tmp_path)
    one = load_tokenizer(tmp_path)
    ids, spans = one.backend.encode(f"é {phrase}Is there?")
    assert ids.count(one.token_id(phrase) or -1) == 1
    assert (2, 2 + len(phrase)) in spans
    assert one.decode(ids) == f"é {phrase}Is there?"


def test_only_the_first_piece_begins_with_the_begin_token(tokenizer: PieceTokenizer) -> None:
    ids = tokenizer.encode_with_images("<image>a<image>")
    assert ids == [tokenizer.bos_id, -200, *tokenizer.encode_with_images("a")[1:], -200]


def test_without_a_begin_token_no_piece_loses_its_first(tokenizer: PieceTokenizer) -> None:
    """Where the tokenizer adds none, the published splitting keeps every piece whole."""
    content = {**json.loads(tokenizer.files["tokenizer.json"]), "post_processor": None}
    bare = from_files({**tokenizer.files, "tokenizer.json": json.dumps(content).encode()}, where=Path("bare"))
    assert bare.encode_with_images("ab<image>ab") == [
        *bare.backend.encode("ab")[0],
        -200,
        *bare.backend.encode("ab")[0],
    ]


def test_tokens_added_by_the_configuration_are_added(tokenizer: PieceTokenizer) -> None:
    files = {**tokenizer.files, "added_tokens.json": b'{"<|im_end|>": %d}' % len(tokenizer)}
    assert from_files(files, where=Path("added")).token_id("<|im_end|>") == len(tokenizer)


@given(TEXT)
@settings(max_examples=40, deadline=None)
def test_spans_lie_in_the_text_and_in_order(tokenizer: PieceTokenizer, slow: PieceTokenizer, text: str) -> None:
    for one in (tokenizer, slow):
        pieces = one.encode_pieces(text)
        assert len(pieces.spans) == len(pieces.input_ids)
        assert all(0 <= begin <= end <= len(text) for begin, end in pieces.spans)
        begins = [begin for begin, _ in pieces.spans]
        assert begins == sorted(begins)


@given(TEXT, st.integers(min_value=1, max_value=3))
@settings(max_examples=40, deadline=None)
def test_streamed_pieces_make_the_whole_text_and_no_broken_character(
    tokenizer: PieceTokenizer, slow: PieceTokenizer, text: str, step: int
) -> None:
    for one in (tokenizer, slow):
        ids = one.backend.encode(text)[0]
        stream = Detokeniser(one)
        pieces = [stream.add(ids[start : start + step]) for start in range(0, len(ids), step)]
        pieces.append(stream.finish())
        assert "".join(pieces) == stream.text == one.decode(ids).strip()
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_an_unfinished_character_is_dropped(tokenizer: PieceTokenizer) -> None:
    stream = Detokeniser(tokenizer)
    ids = tokenizer.backend.encode("a漢")[0]
    assert "".join(stream.add([index]) for index in ids[:-1]) == "a"
    assert stream.finish() == ""


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named(tokenizer: PieceTokenizer, tmp_path: Path, name: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / name).write_bytes(tokenizer.files[name][:-20])
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(tmp_path)


def test_an_absent_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_a_damaged_sentencepiece_model_is_named(slow: PieceTokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        from_files({**slow.files, "tokenizer.model": b"not a model"}, where=Path("x"))
