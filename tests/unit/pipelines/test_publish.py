"""Rules of `vilam3 pipeline publish`: a content is a version once, and there is one schedule of ours."""

from pathlib import Path

import pytest

from tests.unit.pipelines.kfp_server import Kept
from vilam3 import __version__
from vilam3.cli.main import main

COMPILED = "pipelineInfo:\n  name: vilam3-retrain\nroot: {}\n"
INPUTS = ["--base-checkpoint", "s3://b/base", "--corpus", "s3://b/corpus", "--experts", "s3://b/experts"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "retrain.yaml").write_text(COMPILED)
    return tmp_path / "retrain.yaml"


def _publish(endpoint: str, *words: str) -> int:
    return main(["pipeline", "publish", "--endpoint", endpoint, *words])


def test_a_pipeline_and_its_version_are_made_once(endpoint: str, kept: Kept, package: Path) -> None:
    assert _publish(endpoint, "--package", str(package)) == 0
    assert list(kept.pipelines.values()) == ["vilam3-retrain"]
    before = {name: list(versions) for name, versions in kept.versions.items()}
    assert any(version.startswith(f"{__version__}-") for version in next(iter(before.values())))
    assert _publish(endpoint, "--package", str(package)) == 0
    assert kept.versions == before


def test_another_content_is_another_version(endpoint: str, kept: Kept, package: Path) -> None:
    _publish(endpoint, "--package", str(package))
    package.write_text(COMPILED.replace("{}", "{dag: {}}"))
    _publish(endpoint, "--package", str(package))
    (versions,) = kept.versions.values()
    assert len({version for version in versions if version.startswith(f"{__version__}-")}) == 2


def test_one_schedule_of_ours_is_kept_and_others_are_left_alone(endpoint: str, kept: Kept, package: Path) -> None:
    kept.schedules["theirs"] = {"display_name": "somebody's"}
    words = ["--package", str(package), *INPUTS, "--schedule"]
    assert _publish(endpoint, *words, "0 0 2 * * 6") == 0
    (ours,) = (one for key, one in kept.schedules.items() if key != "theirs")
    assert ours["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * 6"
    assert ours["runtime_config"]["parameters"]["corpus"] == "s3://b/corpus"
    _publish(endpoint, *words, "0 0 2 * * 6")
    assert len(kept.schedules) == 2
    _publish(endpoint, *words, "0 0 3 * * 0")
    crons = {one["trigger"]["cron_schedule"]["cron"] for key, one in kept.schedules.items() if key != "theirs"}
    assert crons == {"0 0 3 * * 0"}
    assert "theirs" in kept.schedules


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--schedule", "0 0 2 * * 6"], "--base-checkpoint is required with --schedule"),
        (INPUTS, "--base-checkpoint has no effect without --schedule"),
    ],
)
def test_a_schedule_and_its_inputs_come_together(
    endpoint: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _publish(endpoint, *words) == 2
    assert said in capsys.readouterr().err


def test_a_schedule_needs_the_pipeline(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _publish(endpoint, *INPUTS, "--schedule", "0 0 2 * * 6", "--version", "1") == 2
    assert "no version 1 of vilam3-retrain yet" in capsys.readouterr().err


def test_what_is_no_compiled_pipeline_is_the_callers_mistake(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text("a: b\n")
    assert _publish(endpoint, "--package", str(tmp_path / "other.yaml")) == 2
    assert "no compiled pipeline" in capsys.readouterr().err


def test_a_server_out_of_reach_is_said_so(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _publish("http://127.0.0.1:9", "--package", str(package)) == 1
    assert "http://127.0.0.1:9: could not" in capsys.readouterr().err


def test_a_schedule_keeps_to_a_version(
    endpoint: str, kept: Kept, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new version is a new schedule, and one of no version is refused."""
    words = ["--package", str(package), *INPUTS, "--schedule", "0 0 2 * * 6"]
    _publish(endpoint, *words)
    before = set(kept.schedules)
    package.write_text(COMPILED.replace("{}", "{dag: {}}"))
    _publish(endpoint, *words)
    assert len(kept.schedules) == 1
    assert not before & set(kept.schedules)
    assert _publish(endpoint, *words[2:]) == 2
    assert "give --version, or its --package" in capsys.readouterr().err
