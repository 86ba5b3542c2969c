"""Compiling gives what is kept, to the byte."""

from pathlib import Path

import pytest

from pipelines.submit import write_yaml
from tests.golden.pipelines.compiled import HERE, pipelines


@pytest.mark.parametrize("name", sorted(pipelines()))
def test_a_pipeline_compiles_to_what_is_kept(name: str, tmp_path: Path) -> None:
    """Where this is on purpose: python -m tests.golden.pipelines.compiled, and look at the difference."""
    write_yaml(pipelines()[name], tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == (HERE / name).read_text(encoding="utf-8")


def test_nothing_else_is_kept() -> None:
    assert {path.name for path in HERE.glob("*.yaml")} == set(pipelines())
