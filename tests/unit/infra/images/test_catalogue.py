"""An environment is named for all that can change it, and for nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.images.catalogue import IMAGES, ROOT, Image, ancestry, copied, find, stages
from vilam3 import __version__
from vilam3.errors import NotFoundError

DOCKERFILE = """\
# FROM a comment AS nothing
ARG BASE_IMAGE=elsewhere
ARG OPS_ENVIRONMENT=ops-environment
FROM ${BASE_IMAGE} AS base
RUN useradd us
FROM base AS tool
COPY tool.txt ./
FROM base AS application
COPY program program
FROM base AS ops-environment
COPY ops.txt more.txt /opt/
RUN --mount=type=bind,from=tool,source=/tool,target=/tool \\
    tool install ops.txt
FROM ${OPS_ENVIRONMENT} AS ops
COPY --from=application /opt/application /app
"""
BASE = "localhost/base:1"


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    for name in ("tool.txt", "ops.txt", "more.txt"):
        (tmp_path / name).write_text(name)
    return replace(find("ops"), folder=tmp_path)


def test_a_stage_comes_of_what_it_starts_from_and_takes_files_of() -> None:
    texts = stages(DOCKERFILE)
    assert list(texts) == ["base", "tool", "application", "ops-environment", "ops"]
    assert ancestry("ops-environment", texts) == {"base", "tool", "ops-environment"}
    assert list(copied(texts["ops-environment"])) == ["ops.txt", "more.txt"]
    assert list(copied(texts["ops"])) == []


@pytest.mark.parametrize("file", ["ops.txt", "more.txt", "tool.txt"])
def test_another_lock_is_another_environment(image: Image, file: str) -> None:
    before = image.environment(BASE)
    (image.folder / file).write_text("another")
    assert image.environment(BASE) != before


def test_another_base_or_another_step_is_another_environment(image: Image) -> None:
    before = image.environment(BASE)
    assert image.environment("localhost/base:2") != before
    image.dockerfile.write_text(DOCKERFILE.replace("tool install", "tool update"))
    assert image.environment(BASE) != before


def test_our_program_leaves_the_environment_as_it_is(image: Image) -> None:
    before = image.environment(BASE)
    image.dockerfile.write_text(
        DOCKERFILE.replace("COPY program program", "COPY program another").replace("# FROM", "#")
    )
    assert image.environment(BASE) == before


def test_a_name_is_registry_role_and_the_programs_version() -> None:
    assert find("cpu").name("registry.example.org/team") == f"registry.example.org/team/vilam3-cpu:{__version__}"


def test_an_unknown_role_names_those_there_are() -> None:
    with pytest.raises(NotFoundError, match="there are ops, cpu, gpu, vllm, postgresql"):
        find("tpu")


@pytest.mark.parametrize("role", IMAGES)
def test_every_image_has_its_stages_and_may_copy_what_it_copies(role: str) -> None:
    """A target that the Dockerfile lacks, or a file that .dockerignore hides, fails here and not in a long build."""
    image = find(role)
    texts = stages(image.dockerfile.read_text())
    used = ancestry(image.role, texts) | (ancestry(f"{role}-environment", texts) if image.has_environment else set())
    files = {file for name in used for file in copied(texts[name])}
    assert all((image.folder / file).exists() for file in files)
    if image.folder == ROOT:
        shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        hidden = {file for file in files if not any(Path(file).match(pattern) for pattern in shown)}
        assert not hidden
