"""Rules of starting runs of the intake: what a server is sent, and that what it has is found."""

from pathlib import Path

import pytest

from pipelines.publish import Server
from pipelines.starts import KfpStarts
from tests.unit.intake.installation import TINY, event
from tests.unit.pipelines.kfp_server import Kept
from vilam3.cli.main import main
from vilam3.errors import EngineError, NotFoundError, UserError
from vilam3.intake.event import Digests
from vilam3.intake.intake import Intake, Terms
from vilam3.objects import FolderStore

DIGESTS = Digests(data="d", recipe="r", base="b")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real pipeline, compiled."""
    package = tmp_path_factory.mktemp("compiled") / "retrain.yaml"
    assert main(["pipeline", "compile", "--pipeline", "retrain", "--recipe", str(TINY), "--out", str(package)]) == 0
    return package


@pytest.fixture
def published(endpoint: str, package: Path) -> str:
    """Its version on the server."""
    return Server(endpoint).publish(package)[1]


def test_a_run_has_the_parameters_of_the_compiled_pipeline(
    endpoint: str, kept: Kept, published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = KfpStarts(endpoint, experiment="vilam3", page="https://kfp.example.org/")
    capsys.readouterr()
    run = starts.start("vilam3-retrain-1234", event(tmp_path), DIGESTS)
    (made,) = kept.runs
    assert made["display_name"] == run.name == "vilam3-retrain-1234"
    assert made["pipeline_version_reference"]["pipeline_version_id"] == published
    given = made["runtime_config"]["parameters"]
    assert {"base_checkpoint", "corpus", "experts", "recipe"} <= set(given)
    assert (given["corpus"], given["corpus_digest"]) == (str(tmp_path / "corpus"), DIGESTS.data)
    assert set(given) <= set(kept.specs[published]["root"]["inputDefinitions"]["parameters"])
    assert run.link == f"https://kfp.example.org/#/runs/details/{made['run_id']}"
    assert list(kept.experiments.values()) == ["vilam3"]
    assert capsys.readouterr().out == ""  # an answer is all that a command prints


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("PENDING", "running"),
        ("RUNNING", "running"),
        ("CANCELING", "running"),
        ("SUCCEEDED", "succeeded"),
        ("FAILED", "failed"),
        ("CANCELED", "failed"),
    ],
)
def test_a_run_is_found_by_its_name(
    endpoint: str, kept: Kept, published: str, tmp_path: Path, told: str, state: str
) -> None:
    assert published
    starts = KfpStarts(endpoint, experiment="vilam3")
    assert starts.find("vilam3-retrain-1234") is None
    run = starts.start("vilam3-retrain-1234", event(tmp_path), DIGESTS)
    starts.start("vilam3-retrain-other", event(tmp_path), DIGESTS)
    kept.runs[0]["state"] = told
    found = starts.find("vilam3-retrain-1234")
    assert found is not None
    assert (found.id, found.state) == (run.id, state)


def test_a_run_whose_answer_was_lost_is_not_started_again(
    endpoint: str, kept: Kept, published: str, tmp_path: Path
) -> None:
    assert published
    kept.lost_answers = 1
    way_in = Intake(FolderStore(tmp_path / "records"), KfpStarts(endpoint, experiment="vilam3"), terms=Terms())
    with pytest.raises(EngineError, match="could not start a run"):
        way_in.submit(event(tmp_path))
    assert way_in.submit(event(tmp_path)).decision == "already"
    assert len(kept.runs) == 1


def test_a_version_may_be_named_and_must_be_there(endpoint: str, kept: Kept, published: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no version 7 of vilam3-retrain; publish it"):
        KfpStarts(endpoint, experiment="vilam3", version="7").start("a", event(tmp_path), DIGESTS)
    KfpStarts(endpoint, experiment="vilam3", version=published).start("a", event(tmp_path), DIGESTS)
    assert len(kept.runs) == 1
    other = event(tmp_path).model_copy(update={"pipeline": "vilam3-other"})
    with pytest.raises(NotFoundError, match="has no version of vilam3-other"):
        KfpStarts(endpoint, experiment="vilam3").start("a", other, DIGESTS)


def test_a_pipeline_that_needs_more_than_an_event_has_is_refused(
    endpoint: str, kept: Kept, published: str, tmp_path: Path
) -> None:
    kept.specs[published]["root"]["inputDefinitions"]["parameters"]["surgeon"] = {"parameterType": "STRING"}
    with pytest.raises(UserError, match="needs surgeon, which an event does not have"):
        KfpStarts(endpoint, experiment="vilam3").start("a", event(tmp_path), DIGESTS)
    assert kept.runs == []
