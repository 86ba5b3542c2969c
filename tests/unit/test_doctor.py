"""Rules of `vilam3.doctor`: every failure carries its remedy, and nothing raises."""

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from vilam3 import doctor
from vilam3.cli import doctor as verb

GIB = 2**30


class _Answering(BaseHTTPRequestHandler):
    """A tracking server that is well at /health, and a store that refuses strangers everywhere else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.fixture
def nobody_there() -> str:
    with HTTPServer(("127.0.0.1", 0), _Answering) as listening:
        return f"http://user:secret@127.0.0.1:{listening.server_port}"


def test_this_python_will_do() -> None:
    assert doctor.python().state == "ok"


def test_an_old_python_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    found = doctor.python()
    assert (found.state, found.sentence) == ("fail", "Python 3.10.2 is too old.")
    assert "3.11" in found.remedy


@pytest.mark.parametrize(("gib", "state"), [(2, "fail"), (16, "ok")])
def test_memory_and_disk_are_held_against_the_demo(tmp_path: Path, gib: int, state: str) -> None:
    for found in (doctor.memory(gib * GIB), doctor.disk(tmp_path, gib * GIB)):
        assert found.state == state
        assert f"{gib}.0 GiB" in found.sentence
        assert bool(found.remedy) == (state == "fail")


def test_a_place_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert doctor.writable(tmp_path / "a" / "b").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named() -> None:
    found = doctor.writable(Path("/proc/sys/runs"))
    assert found.state == "fail"
    assert "/proc/sys" in found.sentence
    assert found.remedy


def test_the_roles_are_those_of_the_package() -> None:
    names = {found.name for found in doctor.extras()}
    assert {"role train", "role serve", "role pipelines"} <= names


def test_a_lacking_role_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles that include roles are followed."""
    info = tmp_path / "thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: thing\nVersion: 1\nProvides-Extra: serve\nProvides-Extra: model\n"
        "Requires-Dist: thing[model]; extra == 'serve'\nRequires-Dist: not-there>=1; extra == 'model'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor.extras("thing")
    assert [finding.name for finding in found] == ["role model", "role serve"]
    assert all(finding.state == "note" and "not-there" in finding.sentence for finding in found)


def test_a_tracking_server_that_answers_is_well(server: str) -> None:
    assert doctor.tracking(server).state == "ok"


def test_without_a_tracking_server_a_local_file_does() -> None:
    assert doctor.tracking("").state == "ok"
    assert doctor.tracking("sqlite:///runs/mlflow.db").state == "ok"


def test_a_tracking_server_out_of_reach_is_told_without_its_password(nobody_there: str) -> None:
    found = doctor.tracking(nobody_there)
    assert found.state == "fail"
    assert "out of reach" in found.sentence
    assert "secret" not in found.sentence
    assert "MLFLOW_TRACKING_URI" in found.remedy


def test_a_tracking_server_that_is_ill_is_told_with_its_status(server: str) -> None:
    assert "HTTP 403" in doctor.tracking(f"{server}/elsewhere").sentence


def test_any_answer_of_an_object_store_counts(server: str, nobody_there: str) -> None:
    assert doctor.object_store(server).state == "ok"
    assert doctor.object_store(nobody_there).state == "fail"
    assert doctor.object_store("").state == "note"


def test_the_verb_exits_2_on_a_failure_and_prints_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, nobody_there: str, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    verb.register(parser.add_subparsers())
    arguments = parser.parse_args(["doctor", "--json", "--runs", str(tmp_path)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody_there)
    assert arguments.run(arguments) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    failed = [finding for finding in told["findings"] if finding["state"] == "fail"]
    assert "MLflow" in [finding["name"] for finding in failed]
    assert all(finding["remedy"] for finding in failed)
