"""Rules of `vilam3.dialogue`: the published wording to the byte, and an expert loop that always ends."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilam3.data.sample import Dialect, Modality
from vilam3.dialogue.loop import Asking, Consult, Generate, Outcome, Transcript, converse
from vilam3.dialogue.messages import Message, Role, squash
from vilam3.dialogue.prompts import failure, follow_up, opening
from vilam3.experts.protocol import ExpertResult, Provenance
from vilam3.experts.trigger import Grammar

CARDS = "CARDS\n"
TRIGGER = "Let me trigger <VISTA3D(hepatic tumor)>."
GRAMMAR = Grammar({"VISTA3D": ("everything", "hepatic tumor"), "CXR": (), "BRATS": ()})
PICTURE = Image.new("RGB", (2, 2))
OVERLAY = Image.new("RGB", (2, 2), "red")
MRI_VIEWS = (PICTURE,) * 4


def _found(consulted: Consult) -> list[Outcome]:
    """What experts who always answer send back."""
    provenance = Provenance(
        expert="VISTA3D",
        version="1",
        weights_digest="0",
        argument="",
        study_digest="0",
        series="series-1",
        slice_index=0,
        seconds=0.0,
        created_at="2024-01-01T00:00:00Z",
    )
    result = ExpertResult(text="The results are <image>. ", provenance=provenance, overlay=OVERLAY)
    return [Outcome(call=call, result=result) for call in consulted.calls]


def _failed(consulted: Consult) -> list[Outcome]:
    return [Outcome(call=call, error="the volume has no slices.") for call in consulted.calls]


def _drive(
    asking: Asking,
    replies: Sequence[str],
    *,
    experts: Callable[[Consult], list[Outcome]] = _found,
    grammar: Grammar = GRAMMAR,
) -> tuple[Transcript, list[Generate | Consult]]:
    """Run a dialogue with scripted replies (the last one repeats) and return what it asked for."""
    dialogue = converse(asking, grammar)
    steps: list[Generate | Consult] = [next(dialogue)]
    scripted = iter(replies)
    reply = ""
    try:
        while True:
            step = steps[-1]
            if isinstance(step, Generate):
                reply = next(scripted, reply)
                steps.append(dialogue.send(reply))
            else:
                steps.append(dialogue.send(experts(step)))
    except StopIteration as end:
        transcript = end.value
    assert isinstance(transcript, Transcript)
    return transcript, steps


def _asking(**changes: Any) -> Asking:  # noqa: ANN401 - fields of Asking by name
    asking = Asking(text="Is there a tumor?", modality="CT", images=(PICTURE,), cards=CARDS)
    return dataclasses.replace(asking, **changes)


@pytest.mark.parametrize(
    ("modality", "dialect", "prefix"),
    [
        ("CT", "training", " <image>This is a CT image.\n"),
        ("CXR", "training", "<image> This is a CXR image.\n"),
        ("CT", "demo", "<image>This is a CT image.\n"),
        ("CXR", "demo", "<image>This is a CXR image.\n"),
        ("MRI", "demo", "<image>This is a MRI image.\n"),
        ("Unknown", "demo", "<image>"),
    ],
)
def test_one_image_opens_as_published(modality: Modality, dialect: Dialect, prefix: str) -> None:
    said = opening("Q?", modality=modality, num_images=1, cards=CARDS, dialect=dialect)
    assert said == f"{CARDS}{prefix}Q?"


@pytest.mark.parametrize("dialect", ["training", "demo"])
def test_four_mr_sequences_open_as_published(dialect: Dialect) -> None:
    said = opening("<image>Q?", modality="MRI", num_images=4, cards=CARDS, dialect=dialect)
    assert said == (
        f"{CARDS}T1(contrast enhanced): <image>, T1: <image>, T2: <image>, FLAIR: <image> "
        "These are different MRI modalities.\nQ?"
    )


def test_a_typed_image_place_is_respected_for_one_image() -> None:
    said = opening("Look: <image> Tumor?", modality="CT", num_images=1, cards=CARDS, dialect="demo")
    assert said == f"{CARDS}This is a CT image.\nLook: <image> Tumor?"


def test_without_images_the_question_goes_alone() -> None:
    assert opening("Q?", modality="Unknown", num_images=0, cards=CARDS, dialect="demo") == "Q?"


@pytest.mark.parametrize(
    ("modality", "dialect", "said"),
    [
        ("CT", "training", "Use this result to respond to this prompt:\nQ?."),
        ("MRI", "training", "Use this result to respond to this prompt:\nQ?."),
        (
            "CXR",
            "training",
            ". Analyze the image and take these predictions into account when responding to this prompt:\nQ?",
        ),
        ("CT", "demo", "Use this result to respond to this prompt:\nQ?"),
        ("CXR", "demo", "Use this result to respond to this prompt:\nQ?"),
    ],
)
def test_the_instruction_after_an_expert_is_as_published(modality: Modality, dialect: Dialect, said: str) -> None:
    assert follow_up("Q?\n<image>", modality=modality, dialect=dialect) == said


def test_expert_messages_in_a_row_become_one_user_message_with_texts_as_they_are() -> None:
    said = squash(
        [
            Message(role="user", text="q <image>", images=(PICTURE,)),
            Message(role="assistant", text="<CXR()>"),
            Message(role="expert", text="a <image>. ", images=(OVERLAY,)),
            Message(role="expert", text="b"),
            Message(role="assistant", text="yes"),
            Message(role="expert", text="c"),
        ]
    )
    assert [(message.role, message.text) for message in said] == [
        ("user", "q <image>"),
        ("assistant", "<CXR()>"),
        ("user", "a <image>. b"),
        ("assistant", "yes"),
        ("user", "c"),
    ]
    assert said[2].images == (OVERLAY,)


def test_an_expert_run_never_merges_with_a_question_before_it() -> None:
    said = squash([Message(role="user", text="q"), Message(role="expert", text="e")])
    assert [message.text for message in said] == ["q", "e"]


def test_one_round_sends_the_finding_and_its_overlay_to_the_model() -> None:
    transcript, steps = _drive(_asking(), [TRIGGER, "yes"])
    last = [step for step in steps if isinstance(step, Generate)][-1]
    assert last.messages[-1].text == (
        "The results are <image>. Use this result to respond to this prompt:\nIs there a tumor?"
    )
    assert last.messages[-1].images == (OVERLAY,)
    assert (transcript.answer, transcript.ending) == ("yes", "answered")
    assert [outcome.call.argument for outcome in transcript.outcomes] == ["hepatic tumor"]


def test_without_cards_a_trigger_is_only_text() -> None:
    transcript, steps = _drive(_asking(cards=""), [TRIGGER])
    assert (transcript.answer, transcript.ending, transcript.outcomes) == (TRIGGER, "answered", ())
    assert len(steps) == 1


def test_a_failed_expert_is_told_to_the_model_and_to_the_reader() -> None:
    transcript, steps = _drive(_asking(), [TRIGGER, "I cannot tell."], experts=_failed)
    asked = steps[-1]
    assert isinstance(asked, Generate)
    assert asked.messages[-1].text.startswith(failure("VISTA3D", "the volume has no slices."))
    assert [outcome.error for outcome in transcript.outcomes] == ["the volume has no slices."]
    assert transcript.answer == "I cannot tell."


def test_an_unknown_argument_is_told_without_asking_an_expert() -> None:
    transcript, steps = _drive(_asking(), ["Let me trigger <VISTA3D(unicorn)>.", "no"])
    assert not [step for step in steps if isinstance(step, Consult)]
    assert "unicorn" in transcript.outcomes[0].error
    assert transcript.answer == "no"


def test_after_the_word_segmented_the_expert_runs_and_the_model_is_not_asked_again() -> None:
    reply = "I segmented the liver using <VISTA3D(hepatic tumor)>."
    transcript, steps = _drive(_asking(), [reply, "never said"])
    assert [type(step) for step in steps] == [Generate, Consult]
    assert (transcript.answer, transcript.ending) == (reply, "segmented")
    assert transcript.outcomes[0].result is not None


def test_several_calls_of_one_reply_come_back_in_order() -> None:
    grammar = Grammar(GRAMMAR.arguments, several=True)
    transcript, steps = _drive(_asking(), ["<CXR()> and <BRATS()>", "done"], grammar=grammar)
    consulted = steps[1]
    assert isinstance(consulted, Consult)
    assert [call.expert for call in consulted.calls] == ["CXR", "BRATS"]
    assert [outcome.call.expert for outcome in transcript.outcomes] == ["CXR", "BRATS"]
    last = steps[-1]
    assert isinstance(last, Generate)
    assert last.messages[-1].images == (OVERLAY, OVERLAY)


def test_history_comes_first_and_keeps_its_roles() -> None:
    history = (Message(role="user", text="earlier"), Message(role="assistant", text="before"))
    _, steps = _drive(_asking(history=history), ["yes"])
    first = steps[0]
    assert isinstance(first, Generate)
    assert [message.text for message in first.messages[:2]] == ["earlier", "before"]
    assert first.messages[2].images == (PICTURE,)


def test_four_views_fill_four_places() -> None:
    _, steps = _drive(_asking(modality="MRI", images=MRI_VIEWS), ["yes"])
    first = steps[0]
    assert isinstance(first, Generate)
    assert first.messages[-1].text.count("<image>") == len(first.messages[-1].images) == 4


@given(max_rounds=st.integers(0, 5), words=st.lists(st.sampled_from([TRIGGER, "<NOBODY()>", "yes"]), min_size=1))
@settings(max_examples=60, deadline=None)
def test_experts_are_never_asked_in_more_rounds_than_allowed(max_rounds: int, words: list[str]) -> None:
    """Whatever the model says, for as long as it likes."""
    transcript, steps = _drive(_asking(max_rounds=max_rounds), words)
    assert sum(isinstance(step, Consult) for step in steps) <= max_rounds
    assert sum(isinstance(step, Generate) for step in steps) <= max_rounds + 1
    assert len(transcript.outcomes) <= max_rounds
    assert transcript.ending in {"answered", "rounds"}
    assert transcript.answer in words


@given(texts=st.lists(st.tuples(st.sampled_from(get_args(Role)), st.text(max_size=5)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_squashing_loses_no_text_and_leaves_no_expert(texts: list[tuple[Role, str]]) -> None:
    said = squash([Message(role=role, text=text) for role, text in texts])
    assert "".join(message.text for message in said) == "".join(text for _, text in texts)
    assert all(message.role != "expert" for message in said)
