"""Prompts byte for byte, training labels, and truncation that keeps the newest question."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilam3.data.sample import Turn
from vilam3.dialogue.messages import Message
from vilam3.errors import CheckpointError, DataError
from vilam3.model.chat import (
    assemble,
    embedded_length,
    encode_chat,
    encode_training,
    normalise_turns,
    render,
    template,
)
from vilam3.model.tokenizer import PieceTokenizer

LLAMA_SYSTEM = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, and assist the user with a variety of tasks "
    "using natural language.<|eot_id|>"
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
HERMES = (
    "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\nq1<|im_end|><|im_start|>assistant\na1"
    "<|im_end|><|im_start|>user\nq2<|im_end|><|im_start|>assistant\n"
)
USER = "<|start_header_id|>user<|end_header_id|>\n\n"
ASSISTANT = "<|start_header_id|>assistant<|end_header_id|>\n\n"
TALK = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
SPEAKERS = {"user": "human", "assistant": "gpt"}
PICTURE = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("name", "training", "published_prompt", "cued_prompt"),
    [
        (
            "llama_3",
            LLAMA_SYSTEM + f"{USER}q1<|eot_id|>{ASSISTANT}a1<|eot_id|>{USER}q2<|eot_id|>{ASSISTANT}a2<|end_of_text|>",
            LLAMA_SYSTEM + f"{USER}q1<|eot_id|>{ASSISTANT}a1<|eot_id|>{USER}q2<|eot_id|>{ASSISTANT}",
            LLAMA_SYSTEM + f"{USER}q1<|eot_id|>{ASSISTANT}a1<|eot_id|>{USER}q2<|eot_id|>{ASSISTANT}",
        ),
        (
            "v1",
            VICUNA_SYSTEM + "USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>",
            VICUNA_SYSTEM + "USER: q1 ASSISTANT: a1</s>USER: q2 ",
            VICUNA_SYSTEM + "USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:",
        ),
        (
            "hermes-2",
            HERMES + "a2<|im_end|>",
            HERMES.removesuffix("<|im_start|>assistant\n"),
            HERMES,
        ),
        ("plain", "q1\na1\nq2\na2\n", "q1\na1\nq2\n", "q1\na1\nq2\n"),
    ],
)
def test_templates_are_byte_exact(name: str, training: str, published_prompt: str, cued_prompt: str) -> None:
    style = template(name)
    assert render(TALK, style, cue=False).text == training  # type: ignore[arg-type]  # literals in a list
    assert render(TALK[:3], style, cue=style.demo_cue).text == published_prompt  # type: ignore[arg-type]  # likewise
    assert render(TALK[:3], style, cue=True).text == cued_prompt  # type: ignore[arg-type]  # likewise


def test_vicuna_v1_is_v1() -> None:
    assert render([("user", "q")], template("vicuna_v1"), cue=True) == render([("user", "q")], template("v1"), cue=True)


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"'llama_4'.*v1, vicuna_v1, llama_3, hermes-2, qwen2, plain"):
        template("llama_4")


@pytest.mark.parametrize(
    ("given_prompt", "start"),
    [
        ("Be brief.", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"),
        (LLAMA_SYSTEM.removesuffix("<|eot_id|>"), LLAMA_SYSTEM),
        ("", "<|eot_id|>"),
    ],
)
def test_a_system_prompt_replaces_the_text_and_keeps_the_markers(given_prompt: str, start: str) -> None:
    text = render([("user", "q")], template("llama_3"), cue=True, system_prompt=given_prompt).text
    assert text == f"{start}{USER}q<|eot_id|>{ASSISTANT}"


def test_llama_prompts_begin_with_two_begin_tokens(tokenizer: PieceTokenizer) -> None:
    """The system text names one and the tokenizer adds one, in training and when asking."""
    asked = encode_chat([Message(role="user", text="q")], tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)
    trained = encode_training(_turns(TALK), tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)
    for ids in (asked, trained.input_ids):
        assert ids[:2] == [tokenizer.bos_id] * 2
        assert ids[2] != tokenizer.bos_id


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("…expert model.\n <image>This is a CT image.\nq", "…expert model. <image>\nThis is a CT image.\nq"),
        ("…expert model.\n <image>This is a CT image.\n", "…expert model. <image>\nThis is a CT image."),
        ("The results are <image>. The", "The results are <image>\n. The"),
        ("T1: <image>, T2: <image>", "T1: <image>\n, T2: <image>\n"),
        ("question\n<image>", "question <image>\n"),
        ("<image>\n\nquestion", "<image>\nquestion"),
        ("<image><image>x", "<image>\n <image>\nx"),
        ("  no image \n", "  no image \n"),
    ],
)
def test_training_whitespace_is_the_published_one(text: str, normalised: str) -> None:
    (turn,) = (
        normalise_turns([Turn(speaker="human", text=text)], has_images=True)
        if "<image>" in text
        else (normalise_turns([Turn(speaker="human", text=text)], has_images=False))
    )
    assert turn.text == normalised


def test_a_sample_with_images_and_no_place_gets_one_in_front() -> None:
    turns = normalise_turns(_turns(TALK), has_images=True)
    assert [turn.text for turn in turns] == ["<image>\nq1", "a1", "q2", "a2"]


def _turns(talk: list[tuple[str, str]]) -> list[Turn]:
    return [Turn(speaker=SPEAKERS[speaker], text=text) for speaker, text in talk]  # type: ignore[arg-type]  # from the map


def test_labels_cover_answers_and_their_end_tokens_only(tokenizer: PieceTokenizer) -> None:
    """An earlier answer ends in <|eot_id|>, the last one in <|end_of_text|>; both are learnt."""
    turns = _turns([("user", "<image>q1"), ("assistant", "yes <VISTA3D(a)>"), ("user", "q2"), ("assistant", "no\n")])
    encoded = encode_training(turns, tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)
    learnt = [index for index in encoded.labels if index != -100]
    eot, end = tokenizer.token_id("<|eot_id|>"), tokenizer.token_id("<|end_of_text|>")
    first, second = learnt[: learnt.index(eot)], learnt[learnt.index(eot) + 1 : -1]  # type: ignore[arg-type]  # not None
    assert (tokenizer.decode(first), tokenizer.decode(second), learnt[-1]) == ("yes <VISTA3D(a)>", "no\n", end)
    assert all(label in (-100, index) for label, index in zip(encoded.labels, encoded.input_ids, strict=True))


def test_normalising_is_a_choice(tokenizer: PieceTokenizer) -> None:
    turns = _turns([("user", "a<image>b"), ("assistant", "c")])
    kept = encode_training(turns, tokenizer, "llama_3", max_tokens=400, tokens_per_image=4, normalise=False)
    text = tokenizer.decode([index for index in kept.input_ids if index >= 0])
    assert "ab" in text


def test_a_long_sample_is_cut_at_its_end_but_never_inside_an_image(tokenizer: PieceTokenizer) -> None:
    turns = _turns([("user", "<image>" * 3), ("assistant", "c")])
    whole = encode_training(turns, tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)
    for limit in range(1, embedded_length(whole.input_ids, 4) + 1):
        cut = encode_training(turns, tokenizer, "llama_3", max_tokens=limit, tokens_per_image=4)
        assert embedded_length(cut.input_ids, 4) <= limit
        assert whole.input_ids[: len(cut.input_ids)] == cut.input_ids
        assert len(cut.labels) == len(cut.input_ids)


def test_plain_learns_the_caption_and_drops_the_humans_words(tokenizer: PieceTokenizer) -> None:
    turns = _turns([("user", "<image>\nDescribe."), ("assistant", "A liver.")])
    encoded = encode_training(turns, tokenizer, "plain", max_tokens=400, tokens_per_image=4)
    assert encoded.input_ids[:2] == [tokenizer.bos_id, -200]
    assert tokenizer.decode([index for index in encoded.labels if index != -100]) == "A liver.\n"
    assert encoded.labels[2:] == encoded.input_ids[2:]


def test_plain_refuses_a_conversation(tokenizer: PieceTokenizer) -> None:
    with pytest.raises(DataError, match="template plain takes one human and one gpt turn, found 4"):
        encode_training(_turns(TALK), tokenizer, "plain", max_tokens=400, tokens_per_image=4)


def test_a_sample_without_turns_is_refused(tokenizer: PieceTokenizer) -> None:
    with pytest.raises(DataError, match="has no turns"):
        encode_training([], tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)


EXCHANGE = st.tuples(st.integers(0, 3), st.text("abc ", max_size=25), st.text("xyz ", min_size=1, max_size=25))


@given(st.lists(EXCHANGE, max_size=5), st.integers(0, 2), st.integers(170, 330))
@settings(max_examples=40, deadline=None)
def test_truncation_keeps_system_and_newest_question_and_drops_whole_exchanges(
    tokenizer: PieceTokenizer, exchanges: list[tuple[int, str, str]], asked_images: int, limit: int
) -> None:
    """What fits is a suffix of whole exchanges with exactly its own images, and no longer suffix would fit."""
    messages: list[Message] = []
    for count, question, answer in exchanges:
        messages.append(Message(role="user", text="<image>" * count + question, images=(PICTURE,) * count))
        messages.append(Message(role="assistant", text=answer))
    messages.append(Message(role="user", text="<image>" * asked_images + "newest?", images=(PICTURE,) * asked_images))

    def fit(talk: list[Message], room: int) -> list[int]:
        return assemble(talk, tokenizer, "llama_3", max_tokens=room, tokens_per_image=4).input_ids

    prompt = assemble(messages, tokenizer, "llama_3", max_tokens=limit, tokens_per_image=4)
    assert embedded_length(prompt.input_ids, 4) == prompt.num_embedded <= limit
    assert prompt.num_dropped % 2 == 0
    assert prompt.input_ids == fit(messages[prompt.num_dropped :], 10**6)
    assert len(prompt.images) == prompt.input_ids.count(-200)
    assert prompt.text.startswith(LLAMA_SYSTEM)
    assert prompt.text.endswith(f"newest?<|eot_id|>{ASSISTANT}")
    if prompt.num_dropped:
        assert embedded_length(fit(messages[prompt.num_dropped - 2 :], 10**6), 4) > limit


def test_a_newest_question_that_does_not_fit_is_refused_with_the_numbers(tokenizer: PieceTokenizer) -> None:
    message = Message(role="user", text="<image>" * 20, images=(PICTURE,) * 20)
    with pytest.raises(DataError, match=r"newest question: takes \d+ tokens .* the context holds 80"):
        encode_chat([message], tokenizer, "llama_3", max_tokens=80, tokens_per_image=4)


def test_expert_messages_become_one_user_message(tokenizer: PieceTokenizer) -> None:
    talk = [
        Message(role="user", text="q"),
        Message(role="assistant", text="<CXR()>"),
        Message(role="expert", text="result "),
        Message(role="expert", text="instruction"),
    ]
    text = assemble(talk, tokenizer, "llama_3", max_tokens=400, tokens_per_image=4).text
    assert text.endswith(f"{USER}result instruction<|eot_id|>{ASSISTANT}")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "must end with a user message"),
        ([Message(role="user", text="q"), Message(role="assistant", text="a")], "must end with a user message"),
        ([Message(role="user", text="<image>")], "message 1: has 1 <image> places but 0 images"),
    ],
)
def test_a_conversation_that_cannot_be_answered_is_refused(
    tokenizer: PieceTokenizer, messages: list[Message], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        encode_chat(messages, tokenizer, "llama_3", max_tokens=400, tokens_per_image=4)


def test_a_template_needs_its_end_tokens(tokenizer: PieceTokenizer, slow: PieceTokenizer) -> None:
    """Both Llama-3 end tokens stop a reply; a tokenizer without a template's end token is refused."""
    ends = {tokenizer.token_id("<|eot_id|>"), tokenizer.token_id("<|end_of_text|>")}
    assert template("llama_3").stop_ids(tokenizer) == ends
    assert template("v1").stop_ids(slow) == {2}
    with pytest.raises(CheckpointError, match=r"template llama_3: its end token <\|eot_id\|> is not in the tokenizer"):
        template("llama_3").stop_ids(slow)
