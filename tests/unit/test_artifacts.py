"""Rules of `vilam3.artifacts`: an output is there whole or not at all, whatever happens while it is written."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilam3 import artifacts
from vilam3.artifacts import sha256_tree, whole_directory, whole_file, write_json, write_text
from vilam3.errors import ArtifactError

SMALL_BYTES = 1 << 20


class StopError(Exception):
    """Breaks off a write in these tests."""


def _break_off(path: Path, *, directory: bool) -> None:
    if directory:
        with whole_directory(path) as partial:
            (partial / "half").write_text("new")
            raise StopError
    with whole_file(path) as partial:
        partial.write_text("new")
        raise StopError


def test_a_finished_file_is_readable_by_others_and_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "whole")
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert (tmp_path / "deep" / "a.txt").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_broken_off_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(StopError):
        _break_off(target, directory=False)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_broken_off_directory_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_directory(target) as partial:
        (partial / "weights").write_text("old")
    with pytest.raises(StopError):
        _break_off(target, directory=True)
    assert [path.name for path in target.iterdir()] == ["weights"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("first", "second"):
        with whole_directory(target) as partial:
            (partial / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_refuses_what_is_not_json_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"loss": 1.0})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(target, {"loss": float("nan")})
    assert "1.0" in target.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)  # noqa: S603, S607 - fixed words, of this machine


def test_a_full_disk_says_what_to_do_and_keeps_the_old_file(small_disk: Path) -> None:
    target = small_disk / "a.bin"
    write_text(target, "old")
    with pytest.raises(ArtifactError, match=r"a\.bin: No space left on device; nothing was written; free space"):
        write_text(target, "x" * (2 * SMALL_BYTES))
    assert target.read_text() == "old"
    assert list(small_disk.iterdir()) == [target]


def test_a_full_disk_keeps_the_old_directory(small_disk: Path) -> None:
    target = small_disk / "model"
    with whole_directory(target) as partial:
        (partial / "weights").write_text("old")
    with pytest.raises(ArtifactError, match="No space left"), whole_directory(target) as partial:
        (partial / "weights").write_bytes(bytes(2 * SMALL_BYTES))
    assert (target / "weights").read_text() == "old"
    assert list(small_disk.iterdir()) == [target]


def test_a_read_only_place_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="Permission denied"):
        write_text(tmp_path / "a.txt", "x")


@pytest.mark.parametrize("writer", ["whole_file", "whole_directory"])
def test_a_killed_writer_leaves_the_old_output(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "output"
    if writer == "whole_file":
        write_text(target, "old")
    else:
        with whole_directory(target) as partial:
            (partial / "weights").write_text("old")
    before = target.read_bytes() if target.is_file() else sha256_tree(target).encode()
    program = f"""
        import time
        from pathlib import Path
        from vilam3.artifacts import {writer}
        with {writer}(Path({str(target)!r})) as partial:
            (partial / "weights" if partial.is_dir() else partial).write_text("new")
            print("half way", flush=True)
            time.sleep(60)
    """
    with _python(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.kill()
    after = target.read_bytes() if target.is_file() else sha256_tree(target).encode()
    assert after == before


def test_concurrent_writers_of_a_file_never_show_a_mixture(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    texts = [letter * 4096 for letter in "abcd"]
    write_text(target, texts[0])
    writers = [threading.Thread(target=_write_often, args=(target, text)) for text in texts]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(target.read_text())
        time.sleep(0.001)
    for writer in writers:
        writer.join()
    assert seen <= set(texts)
    assert list(tmp_path.iterdir()) == [target]


def _write_often(target: Path, text: str) -> None:
    for _ in range(10):
        write_text(target, text)


def test_concurrent_writers_of_a_directory_leave_one_whole_one_at_any_moment(tmp_path: Path) -> None:
    """Processes that finish the same step at once: none fails, and a reader always finds a whole directory."""
    target = tmp_path / "model"
    program = f"""
        import sys
        from pathlib import Path
        from vilam3.artifacts import whole_directory
        for _ in range(100):
            with whole_directory(Path({str(target)!r})) as partial:
                (partial / "one").write_text("whole")
    """
    with whole_directory(target) as partial:
        (partial / "one").write_text("whole")
    writers = [_python(program) for _ in range(3)]
    absences = 0
    while any(writer.poll() is None for writer in writers):
        absences += not target.exists()
    complaints = [writer.communicate()[1] for writer in writers]
    assert complaints == ["", "", ""]
    assert absences == 0
    assert (target / "one").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_takes_the_place_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_text(target, "old")
    with whole_directory(target) as partial:
        (partial / "weights").write_text("new")
    assert (target / "weights").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_where_names_cannot_be_exchanged_the_old_directory_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_exchange", lambda *_: False)
    test_a_new_directory_replaces_the_old_one_whole(tmp_path)


def _python(program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ourselves


def test_a_tree_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = sha256_tree(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256_tree(tmp_path)
    (tmp_path / "b").write_text("y")
    assert len({first, renamed, sha256_tree(tmp_path)}) == 3
