"""Which replies call which expert."""

import contextlib
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vilam3.errors import ExpertError
from vilam3.experts.protocol import ExpertCall
from vilam3.experts.trigger import Grammar, enclosed, format_trigger

GROUPS = ("everything", "hepatic tumor", "hepatoma", "organs", "muscles")
ARGUMENTS = {"VISTA3D": GROUPS, "BRATS": (), "CXR": ()}
GRAMMAR = Grammar(ARGUMENTS)
SEVERAL = Grammar(ARGUMENTS, several=True)

PIECES = ["<", ">", "(", ")", "\n", " ", "VISTA3D", "CXR", "BRATS", "VISTA2D", "organs", "FOO", "everything"]
replies = st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text()


def vista3d(argument: str) -> tuple[ExpertCall, ...]:
    return (ExpertCall(expert="VISTA3D", argument=argument),)


@pytest.mark.parametrize(
    ("reply", "argument"),
    [
        ("This looks like a CT image. Let me trigger <VISTA3D(hepatic tumor)>. ", "hepatic tumor"),
        ("I segmented the muscles using <VISTA3D(muscles)>.", "muscles"),
        ("<VISTA3D(hepatoma)>", "hepatoma"),
        ("<VISTA3D>", "everything"),
        ("<VISTA3D()>", "everything"),
        ("<VISTA3D(organs>", "everything"),
        ("<VISTA3D organs)>", "everything"),
        ("<use VISTA3D(organs)>", "organs"),
        ("<<VISTA3D(organs)>", "organs"),
        ("a > b <VISTA3D(organs)>", "organs"),
        ("<VISTA3D(organs)> <", "organs"),
        ("<cut\n<VISTA3D(organs)>", "organs"),
    ],
)
def test_vista3d_takes_the_first_parenthesised_group(reply: str, argument: str) -> None:
    """As the published demo does, odd forms included."""
    assert GRAMMAR.parse(reply) == vista3d(argument)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "yes",
        "Let me trigger VISTA3D(organs).",
        "<VISTA3D(organs)> or <CXR()>",
        "<VISTA3D(organs)> in <image>",
        "<image>",
        "<vista3d(organs)>",
        "<VISTA3D\n(organs)>",
        "<>",
        "1 < 2 > 0",
    ],
)
def test_anything_but_exactly_one_group_with_an_expert_calls_nobody(reply: str) -> None:
    assert GRAMMAR.parse(reply) == ()


@pytest.mark.parametrize("reply", ["<CXR()>", "<CXR>", "<CXR(a)(b)>", "<CXR(VISTA3D(organs))>", "<BRATS(CXR)>"])
def test_cxr_is_asked_first_and_ignores_its_arguments(reply: str) -> None:
    assert GRAMMAR.parse(reply) == (ExpertCall(expert="CXR"),)


def test_brats_ignores_its_arguments() -> None:
    assert GRAMMAR.parse("I segmented any brain tumors using <BRATS(None)>.") == (ExpertCall(expert="BRATS"),)


@pytest.mark.parametrize(
    ("reply", "saying"),
    [
        ("<VISTA3D(spleen)>", "'spleen'; valid are 'everything', 'hepatic tumor', 'hepatoma', 'organs', 'muscles'"),
        ("<VISTA3D(Organs)>", "'Organs'"),
        ("<VISTA3D( organs)>", "' organs'"),
        ("<VISTA3D(organs)(muscles)>", "one argument at a time"),
        ("<VISTA2D()>", "VISTA2D has no implementation; available are BRATS, CXR, VISTA3D"),
        ("<SAM(liver)>", "there is no expert SAM; available are BRATS, CXR, VISTA3D"),
    ],
)
def test_a_trigger_that_cannot_be_served_says_why(reply: str, saying: str) -> None:
    with pytest.raises(ExpertError, match=re.escape(saying)):
        GRAMMAR.parse(reply)


def test_a_published_expert_that_is_not_at_hand_is_named() -> None:
    with pytest.raises(ExpertError, match="BRATS is not available here; available are CXR"):
        Grammar({"CXR": ()}).parse("<BRATS()>")


def test_several_serves_every_trigger_once_and_in_order() -> None:
    reply = "<CXR()> then <image> <VISTA3D(organs)>, <VISTA3D(muscles)>, <CXR()>"
    assert SEVERAL.parse(reply) == (ExpertCall(expert="CXR"), *vista3d("organs"), *vista3d("muscles"))


def test_an_added_expert_may_contain_a_published_name() -> None:
    grammar = Grammar({**ARGUMENTS, "CXR2": (), "ECHO": ("left", "right")})
    assert grammar.parse("<CXR2()>") == (ExpertCall(expert="CXR2"),)
    assert grammar.parse("<ECHO(left)>") == (ExpertCall(expert="ECHO", argument="left"),)
    with pytest.raises(ExpertError, match="ECHO does not know the argument ''; valid are 'left', 'right'"):
        grammar.parse("<ECHO()>")


calls = st.one_of(
    st.sampled_from(["CXR", "BRATS"]).map(lambda name: ExpertCall(expert=name)),
    st.sampled_from(GROUPS).map(lambda group: ExpertCall(expert="VISTA3D", argument=group)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(calls, max_size=4), st.text(st.characters(exclude_characters="<>")))
def test_written_triggers_are_read_back(written: list[ExpertCall], prose: str) -> None:
    reply = prose.join(["", *(format_trigger(call) for call in written), ""])
    assert SEVERAL.parse(reply) == tuple(dict.fromkeys(written))
    assert GRAMMAR.parse(reply) == (tuple(written) if len(written) == 1 else ())


@settings(max_examples=200, deadline=None)
@given(replies)
@example("<VISTA3D(")
def test_no_reply_fails_in_any_other_way(reply: str) -> None:
    for grammar in (GRAMMAR, SEVERAL):
        try:
            grammar.parse(reply)
        except ExpertError as error:
            assert str(error)  # noqa: PT017 - the rule is about the type of whatever is raised


@settings(max_examples=200, deadline=None)
@given(replies)
def test_groups_are_those_of_the_published_expression(reply: str) -> None:
    assert list(enclosed(reply)) == re.findall(r"<(.*?)>", reply)


@pytest.mark.parametrize("unit", ["<", "(", "<VISTA3D(", "<VISTA3D(a)> ", "\n<"])
def test_a_hostile_reply_is_read_in_linear_time(unit: str) -> None:
    """The published expression needs minutes for a line of a million opening brackets."""
    started = time.perf_counter()
    with contextlib.suppress(ExpertError):
        SEVERAL.parse(unit * 200_000)
    assert time.perf_counter() - started < 2.0
