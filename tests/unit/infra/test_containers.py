"""An image that would fill the disk is refused before it is imported."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.cluster import containers
from vilam3.errors import PrerequisiteError


class Usage(NamedTuple):
    """As shutil tells it."""

    total: int
    used: int
    free: int


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of three gigabytes, none of which is written."""
    file = tmp_path / "cpu.tar"
    with file.open("wb") as stream:
        stream.truncate(3_000_000_000)
    return file


def _free(monkeypatch: pytest.MonkeyPatch, *, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total=10**12, used=10**12 - num_bytes, free=num_bytes))


def test_an_archive_that_would_fill_the_disk_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, num_bytes=7_500_000_000)
    with pytest.raises(PrerequisiteError, match=r"the node needs 8\.1 GB for it and \S+ has 7\.5 GB free; free some"):
        containers.check_room(archive, folder=archive.parent)


def test_an_archive_for_which_there_is_room_is_taken(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, num_bytes=9_000_000_000)
    containers.check_room(archive, folder=archive.parent)
