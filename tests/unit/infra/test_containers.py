"""An image that would fill the disk is refused before it is imported."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.cluster import containers
from vilam3.errors import PrerequisiteError

SIZE = 3_000_000_000


class Usage(NamedTuple):
    """As shutil tells it."""

    total: int
    used: int
    free: int


def _free(monkeypatch: pytest.MonkeyPatch, *, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total=10**12, used=10**12 - num_bytes, free=num_bytes))


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, num_bytes=7_500_000_000)
    with pytest.raises(
        PrerequisiteError, match=r"image cpu: the node needs 8\.1 GB for it and \S+ has 7\.5 GB free; free some"
    ):
        containers.check_room("image cpu", size_bytes=SIZE, folder=tmp_path)


def test_an_archive_for_which_there_is_room_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(monkeypatch, num_bytes=9_000_000_000)
    containers.check_room("image cpu", size_bytes=SIZE, folder=tmp_path)
