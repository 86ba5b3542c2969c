"""A real Orthanc for a test; skipped where it is not installed, with the line that installs it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.pacs import orthanc
from infra.pacs.orthanc import Orthanc
from vilam3.errors import PrerequisiteError


@contextlib.contextmanager
def archived(folder: Path) -> Iterator[Orthanc]:
    """An archive in `folder`, of which nothing is left afterwards."""
    try:
        started = orthanc.start(folder)
    except PrerequisiteError as error:
        pytest.skip(str(error))
    yield started
    assert orthanc.stop(folder)
    assert not folder.exists()
