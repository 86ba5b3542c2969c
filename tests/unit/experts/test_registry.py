"""Experts that other packages add."""

import json
import threading
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from vilam3.data.sample import Modality
from vilam3.data.study import Study
from vilam3.errors import Cancelled, ExpertError, NotFoundError
from vilam3.experts import registry
from vilam3.experts.facts import CARDS, cards
from vilam3.experts.findings import Origin
from vilam3.experts.protocol import ExpertCall, ExpertResult, Point, Watch, refuse_points, unwatched
from vilam3.experts.registry import Registry


class Echo:
    """A third-party expert."""

    name = "ECHO"
    modality: Modality = "US"
    card = "<ECHO(args)> Modality: US, Valid args are: 'left', or 'right'"
    arguments = ("left", "right")

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Say the argument."""
        del points
        watch(0.5)
        origin = Origin(expert=self.name, version="1", weights_digest="", argument=argument)
        return ExpertResult(text=argument, provenance=origin.provenance(study, slice_index=slice_index))

    def warm_up(self) -> None:
        """Nothing to load."""


def create(root: Path, *, dialect: str, device: str) -> Echo:
    if (root / "broken").exists():
        raise ValueError(f"{dialect} {device}")
    if not (root / "echo").exists():
        raise NotFoundError("no echo weights")
    return Echo()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that adds ECHO is installed beside the three."""
    point = EntryPoint("ECHO", f"{__name__}:create", registry.GROUP)
    own = [EntryPoint("CXR", "vilam3.experts.cxr:create", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: [*own, point] if group == registry.GROUP else [])


@pytest.mark.usefixtures("installed")
def test_an_added_expert_is_triggered_run_and_on_the_cards(tmp_path: Path) -> None:
    (tmp_path / "echo").touch()
    experts = Registry.load(tmp_path)
    assert experts.names == ("ECHO",)
    assert set(experts.absent) == {"CXR"}
    assert experts.cards() == cards((Echo.card,))
    assert experts.cards() != CARDS
    call = experts.grammar().parse("Let me trigger <ECHO(left)>.")[0]
    assert experts.run(call, Study(digest="d", modality="US")).text == "left"
    assert json.dumps(experts.describe())


@pytest.mark.usefixtures("installed")
def test_a_call_of_an_absent_expert_is_answered_in_words(tmp_path: Path) -> None:
    (tmp_path / "echo").touch()
    with pytest.raises(ExpertError, match=r"the expert CXR is not available here; available are ECHO\."):
        Registry.load(tmp_path).run(ExpertCall(expert="CXR"), Study(digest="d", modality="CXR"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("only", "error", "saying"),
    [
        (["CXR"], NotFoundError, "no such directory"),
        (["SAM"], NotFoundError, "expert SAM: not installed; installed are CXR, ECHO"),
        (["ECHO"], ExpertError, r"expert ECHO: .*:create cannot open it \(ValueError: demo cpu\)"),
    ],
)
def test_an_expert_asked_for_by_name_must_open(
    tmp_path: Path, only: list[str], error: type[Exception], saying: str
) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(error, match=saying):
        Registry.load(tmp_path, only=only)


def test_without_experts_there_is_nothing_to_show_or_trigger() -> None:
    nobody: Any = Registry([])
    assert nobody.cards() == ""
    assert nobody.grammar().parse("yes") == ()


@pytest.mark.usefixtures("installed")
def test_an_expert_is_watched_and_stopped_by_its_caller(tmp_path: Path) -> None:
    (tmp_path / "echo").touch()
    experts, study, call = Registry.load(tmp_path), Study(digest="d", modality="US"), ExpertCall(expert="ECHO")
    told: list[float] = []
    experts.run(call, study, watch=told.append)
    assert told == [0.0, 0.5]
    left = threading.Event()
    left.set()
    with pytest.raises(Cancelled, match="the caller has gone"):
        experts.run(call, study, cancelled=left)


def test_an_expert_without_a_use_for_points_says_so() -> None:
    with pytest.raises(ExpertError, match="CXR takes no points, but 1 are given"):
        refuse_points([Point(xyz_mm=(0, 0, 0), label="heart")], name="CXR")
