"""Children are started again when they end, and never outlive their supervisor, however it ends."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.cluster.api import WITH_PARENT
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses, Child, Plan
from infra.cluster.processes import Identity, descendants, end
from vilam3.errors import ClusterError

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A cluster of one program that stays and one that always ends."""
    made = Layout(tmp_path / "cluster")
    made.create()
    stays = Child(name="stays", command=[*WITH_PARENT, "--", "sleep", "1000"])
    ends = Child(name="ends", command=["sh", "-c", "echo $WORD; exit 3"], environment={"WORD": "again"})
    Plan(level="api", addresses=Addresses.loopback(), children=[stays, ends]).write(made.plan)
    return made


@pytest.fixture
def supervisor(layout: Layout) -> Iterator["subprocess.Popen[bytes]"]:
    """The supervisor of `layout`, after its first report."""
    command = [sys.executable, "-m", "infra.cluster.supervise", str(layout.root)]
    with subprocess.Popen(command, cwd=ROOT) as process:  # noqa: S603 - our own program
        _wait(lambda: layout.processes.exists() and _states(layout)["ends"]["starts"] >= 2)
        yield process
        process.kill()


@pytest.mark.usefixtures("supervisor")
def test_a_program_that_ends_is_started_again(layout: Layout) -> None:
    states = _states(layout)
    assert states["ends"]["exit_code"] == 3
    assert states["stays"]["starts"] == 1
    assert (layout.logs / "ends.log").read_text().split()[:2] == ["again", "again"]


def test_asked_to_end_it_ends_its_children(layout: Layout, supervisor: "subprocess.Popen[bytes]") -> None:
    child = Identity.of(_states(layout)["stays"]["pid"])
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(PATIENCE_S) == 0
    assert child.process is None


def test_killed_it_leaves_no_child(layout: Layout, supervisor: "subprocess.Popen[bytes]") -> None:
    child = Identity.of(_states(layout)["stays"]["pid"])
    supervisor.kill()
    supervisor.wait(PATIENCE_S)
    _wait(lambda: child.process is None)


def test_a_pid_that_was_given_out_again_is_not_ours() -> None:
    ours = psutil.Process()
    assert Identity(pid=ours.pid, started_s=ours.create_time()).process is not None
    assert Identity(pid=ours.pid, started_s=ours.create_time() - 1.0).process is None


def test_what_ignores_the_request_is_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"
    command = [sys.executable, "-c", deaf]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own program
        assert process.stdout is not None
        process.stdout.readline()
        identity = Identity.of(process.pid)
        end([identity], grace_s=1.0)
        assert identity.process is None


def test_descendants_are_found_at_any_depth() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "sh -c 'sleep 1000; true' & wait"]) as process:
        _wait(lambda: len(descendants(Identity.of(process.pid))) == 2)
        below = descendants(Identity.of(process.pid))
        end([*below, Identity.of(process.pid)], grace_s=5.0)
        assert [identity.process for identity in below] == [None, None]


def test_a_process_that_is_gone_has_no_identity() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    with pytest.raises(ClusterError, match="ended at once"):
        Identity.of(process.pid)


def _states(layout: Layout) -> dict[str, dict[str, int]]:
    return {state["name"]: state for state in json.loads(layout.processes.read_text())["processes"]}


def _wait(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)
