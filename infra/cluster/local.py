"""The provider that needs no container service: Kubernetes from Go modules, as processes of this machine."""

import fcntl
import json
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import httpx

from infra.cluster import addons, api, containers, manifests, node, simulated
from infra.cluster.layout import Layout
from infra.cluster.plan import OPERATORS, SERVES, WITHOUT_NODE, Addresses, Level, Plan
from infra.cluster.processes import Identity, descendants, end
from infra.cluster.provider import Status
from vilam3.errors import ClusterError, UserError

CHECKOUT = Path(__file__).parents[2]
READY_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 2.0
POLL_S = 0.2
END_GRACE_S = 30.0
MANY_STARTS = 8
SHOWN_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A cluster whose files lie at `layout`; `say` is told what goes on."""

    layout: Layout
    say: Callable[[str], None]

    @property
    def kubeconfig(self) -> Path:
        """Where the clients find it."""
        return self.layout.kubeconfig

    def up(self, level: Level, *, operators: Sequence[str] = OPERATORS) -> None:
        """Bring the cluster up to `level`; one with a node gets the operators that it lacks.

        Raises:
            UserError: A cluster of another level is up, which cannot be used as one of this.
            ClusterError: It did not get ready.
        """
        with self._alone():
            if self._supervisor() is None:
                self._remove()
                self._start(level)
            plan = self._raised(Plan.read(self.layout.plan), level=level)
            self._wait_until_answering(plan)
            manifests.apply_custom_resources(self.kubeconfig, say=self.say)
            if plan.addresses.slot >= 0:
                addons.install(self.layout, plan=plan, wanted=operators, load=self.load, say=self.say)

    def down(self) -> None:
        """End every process of the cluster and remove its files; the logs stay."""
        with self._alone():
            self._remove()

    def status(self) -> Status:
        """What the supervisor says of its children."""
        if self._supervisor() is None:
            return Status(up=False, lines=("no cluster",))
        plan = Plan.read(self.layout.plan)
        told = [
            f"{state['name']:24} {'running' if state['pid'] else 'ended':8} starts {state['starts']}"
            for state in self._states()
        ]
        return Status(up=True, lines=(f"level {plan.level} at {plan.addresses.api_url}", *told))

    def load_image(self, archive: Path) -> list[str]:
        """Import an archive into the node's containerd.

        Raises:
            UserError: No node is up, or there is no such archive.
        """
        if self._supervisor() is None or Plan.read(self.layout.plan).addresses.slot < 0:
            raise UserError("load-image: no node is up that could hold images; make cluster-up LEVEL=node")
        if archive.is_file():
            name, size_bytes = f"image archive {archive}", archive.stat().st_size
            containers.check_room(name, size_bytes=size_bytes, folder=self.layout.data)
        return self.load(archive)

    def load(self, archive: Path) -> list[str]:
        """Import an archive into the node that is up."""
        return containers.load(archive, inside=self._inside())

    def receive_image(self, name: str, *, size_bytes: int, write: Callable[[IO[bytes]], None]) -> None:
        """Import an image from its archive while that is written.

        Raises:
            PrerequisiteError: There is too little room for it.
        """
        containers.check_room(f"image {name}", size_bytes=size_bytes, folder=self.layout.data)
        containers.receive(write, inside=self._inside())

    def image_digests(self) -> dict[str, str]:
        """Names of the images that the node has, each with the digest of its manifest."""
        return containers.digests(inside=self._inside())

    def _inside(self) -> int:
        """A process of the node that is up."""
        supervisor = self._supervisor()
        assert supervisor is not None
        return descendants(supervisor)[0].pid

    def _raised(self, plan: Plan, *, level: Level) -> Plan:
        if level in SERVES[plan.level]:
            return plan
        if (plan.level, level) != ("node", "full"):
            raise UserError(f"a cluster of level {plan.level} is up; end it first: make cluster-down")
        higher = replace(plan, level=level)
        higher.write(self.layout.plan)
        return higher

    def _start(self, level: Level) -> None:
        self.layout.create()
        for log in self.layout.logs.iterdir():
            log.unlink()
        if level in WITHOUT_NODE:
            make = api.plan if level == "api" else simulated.plan
            plan, prefix = make(self.layout, say=self.say), []
        else:
            plan = node.plan(self.layout, level=level, say=self.say)
            prefix = node.namespaces(plan.addresses)
        plan.write(self.layout.plan)
        self._launch(prefix)

    def _launch(self, prefix: list[str]) -> None:
        """Start the supervisor in a session of its own, so that it outlives this program."""
        command = [*prefix, sys.executable, "-m", "infra.cluster.supervise", str(self.layout.root)]
        with (self.layout.logs / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True
            )
        Identity.of(process.pid).write(self.layout.supervisor)
        process.returncode = 0  # nobody waits for it here, and that is no mistake to warn of

    def _wait_until_answering(self, plan: Plan) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        while not answers(plan.addresses, authority=self.layout.certificates / "authority.crt"):
            if self._supervisor() is None:
                raise ClusterError(f"the supervisor ended; {self._last_words('supervisor')}")
            failing = [state["name"] for state in self._states() if state["starts"] >= MANY_STARTS]
            if failing or time.monotonic() > until:
                name = failing[0] if failing else "kube-apiserver"
                raise ClusterError(f"the API server does not get ready; {self._last_words(name)}")
            time.sleep(POLL_S)

    def _remove(self) -> None:
        supervisor = self._supervisor()
        plan = Plan.read(self.layout.plan) if self.layout.plan.exists() else None
        in_namespace = plan is not None and plan.addresses.slot >= 0
        if supervisor is not None:
            below = descendants(supervisor)
            # In front of a namespace waits a process that passes no signal on; its only child is the supervisor.
            end(below[:1] if in_namespace and below else [supervisor], grace_s=END_GRACE_S)
            end([*below, supervisor], grace_s=END_GRACE_S)
        if not in_namespace:
            end(self._recorded(), grace_s=END_GRACE_S)
        elif plan is not None:
            node.remove(plan)
        shutil.rmtree(self.layout.state, ignore_errors=True)
        self.layout.kubeconfig.unlink(missing_ok=True)

    def _recorded(self) -> list[Identity]:
        """Children that may have outlived their supervisor."""
        return [Identity(pid=state["pid"], started_s=state["started_s"]) for state in self._states() if state["pid"]]

    def _supervisor(self) -> Identity | None:
        """The supervisor, while it runs."""
        if not self.layout.supervisor.exists():
            return None
        identity = Identity(**json.loads(self.layout.supervisor.read_text("utf-8")))
        return identity if identity.process is not None else None

    def _states(self) -> list[dict[str, Any]]:
        if not self.layout.processes.exists():
            return []
        return list(json.loads(self.layout.processes.read_text("utf-8"))["processes"])

    def _last_words(self, name: str) -> str:
        log = self.layout.logs / f"{name}.log"
        lines = log.read_text("utf-8", errors="replace").splitlines() if log.exists() else ["nothing"]
        return "\n".join([f"{name} last said (all of it is in {log}):", *lines[-SHOWN_LINES:]])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.layout.root.mkdir(parents=True, exist_ok=True)
        with self.layout.lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


def answers(addresses: Addresses, *, authority: Path) -> bool:
    """Whether the API server says that it is ready; it tells that to anybody."""
    context = ssl.create_default_context(cafile=str(authority))
    url = f"{addresses.api_url}/readyz"
    try:
        return httpx.get(url, verify=context, trust_env=False, timeout=ANSWER_TIMEOUT_S).is_success
    except httpx.HTTPError:
        return False
