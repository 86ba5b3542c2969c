"""Who builds: docker where it answers, buildah where it can, and otherwise a sentence that says what would help."""

from pathlib import Path

import pytest

from infra.images import builder
from infra.images.cli import main
from vilam3.errors import PrerequisiteError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _put(folder: Path, *names: str, exit_code: int = 0) -> None:
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\nexit {exit_code}\n")
        (folder / name).chmod(0o755)


def test_docker_is_chosen_where_it_answers(programs: Path) -> None:
    _put(programs, "docker", *builder.OFFLINE_PROGRAMS)
    assert builder.choose() == "docker"


def test_without_an_answer_of_docker_the_absent_programs_are_named(programs: Path) -> None:
    _put(programs, "docker", exit_code=1)
    _put(programs, "buildah")
    with pytest.raises(PrerequisiteError, match="mmdebstrap, skopeo cannot be found; start docker, or on Debian"):
        builder.choose()


@pytest.mark.parametrize(("user", "chosen"), [(0, "buildah"), (1000, None)])
def test_buildah_needs_root(programs: Path, monkeypatch: pytest.MonkeyPatch, user: int, chosen: str | None) -> None:
    _put(programs, *builder.OFFLINE_PROGRAMS)
    monkeypatch.setattr("os.geteuid", lambda: user)
    if chosen:
        assert builder.choose() == chosen
    else:
        with pytest.raises(PrerequisiteError, match="needs root"):
            builder.choose()


def test_what_a_caller_gets_wrong_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["build", "tpu"]) == 2
    assert "there are ops, cpu, gpu, vllm, postgresql" in capsys.readouterr().err
    assert main(["archive", "tpu", "--out", str(tmp_path / "tpu.tar")]) == 2


def test_an_archive_of_what_is_not_built_says_how_to_build_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILAM3_CACHE", str(tmp_path))
    assert main(["archive", "ops", "--out", str(tmp_path / "ops.tar")]) == 2
    assert "make image" in capsys.readouterr().err
