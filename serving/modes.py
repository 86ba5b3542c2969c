"""The forms in which a cluster runs the endpoint, on one machine: the parts as processes, Ray Serve, or one process.

``kserve`` starts the roles as the chart's services do, and KServe's own router in front of them where its program is
at hand; ``ray`` starts the Ray Serve application on a Ray of its own; ``single`` is one process.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.address import check_free
from serving.fleet import Fleet, free_ports, until_told
from vilam3.errors import ExpertError, NotFoundError, UserError
from vilam3.graph import MODEL, inference_graph

ROUTER_VARIABLE = "VILAM3_KSERVE_ROUTER"
ROUTER_PORT = 8080  # KServe's router knows no other
ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What is served: a directory with ``model/`` and ``experts/``, as a run leaves them."""

    model: Path
    experts: Path | None

    @classmethod
    def below(cls, root: Path) -> "Models":
        """Find them.

        Raises:
            NotFoundError: there is no model.
        """
        if not (root / "model").is_dir():
            raise NotFoundError(f"--models {root}: holds no model/; name a directory such as runs/latest")
        experts = root / "experts"
        return cls(model=(root / "model").resolve(), experts=experts.resolve() if experts.is_dir() else None)

    def names(self) -> list[str]:
        """The experts at hand, asked of a process of its own: their libraries are not needed in this one.

        Raises:
            ExpertError: they cannot be opened.
        """
        if self.experts is None:
            return []
        command = [sys.executable, "-m", "vilam3", "experts", "list", "--experts", str(self.experts), "--json"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if told.returncode:
            raise ExpertError(f"experts {self.experts}: {told.stderr.strip().splitlines()[-1:]}")
        return [str(entry["name"]) for entry in json.loads(told.stdout)["experts"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Where callers come in.

    Attributes:
        host: Address of the public endpoint.
        port: Its port.
        without_keys: Listen beyond loopback though there are no keys.
        work: Where studies and results live while it runs.
    """

    host: str
    port: int
    without_keys: bool
    work: Path

    @property
    def studies(self) -> str:
        """The store that all parts share."""
        return f"file://{self.work.resolve()}/studies"

    def options(self) -> list[str]:
        """For `vilam3 serve`."""
        keys = ["--without-keys"] if self.without_keys else []
        return ["--host", self.host, "--port", str(self.port), *keys]


OnReady = Callable[[str], None]


def kserve(models: Models, front: Front, *, on_ready: OnReady) -> None:
    """The parts as processes, and KServe's router where its program is named.

    Raises:
        ClusterError: a part ended.
    """
    names = models.names()
    check_free(front.host, front.port)
    ports = free_ports(1 + len(names))
    urls = dict(zip([MODEL, *names], (f"http://127.0.0.1:{port}" for port in ports), strict=True))
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))}
    with until_told() as stop, Fleet() as fleet:
        parts = [fleet.start(MODEL, _part(MODEL, models, front, urls), environment=environment)]
        parts += [
            fleet.start(name.lower(), _part(name, models, front, urls), environment=environment) for name in names
        ]
        for part in parts:
            fleet.await_ready(part)
        fleet.await_ready(fleet.start("orchestrator", _orchestrator(front, urls)))
        on_ready(f"http://{front.host}:{front.port}")
        _route(fleet, urls, on_ready)
        fleet.watch(stop)


def _part(name: str, models: Models, front: Front, urls: Mapping[str, str]) -> list[str]:
    where = ["--port", urls[name].rpartition(":")[2], "--studies", front.studies]
    if name == MODEL:
        return ["serve", "--role", "vlm", "--model", str(models.model), *_addresses(urls), *where]
    return ["serve", "--role", "expert", "--expert", name, "--experts", str(models.experts), *where]


def _orchestrator(front: Front, urls: Mapping[str, str]) -> list[str]:
    shared = ["--vlm", urls[MODEL], "--studies", front.studies]
    return ["serve", "--role", "orchestrator", *shared, *_addresses(urls), *front.options()]


def _addresses(urls: Mapping[str, str]) -> list[str]:
    return [word for name, url in urls.items() if name != MODEL for word in ("--expert-url", f"{name}={url}")]


def _route(fleet: Fleet, urls: Mapping[str, str], on_ready: OnReady) -> None:
    """Start KServe's router on the graph of the parts, if its program is named and its port is free."""
    program = os.environ.get(ROUTER_VARIABLE, "")
    if not program:
        return
    with contextlib.suppress(UserError):
        check_free("127.0.0.1", ROUTER_PORT)
        spec = inference_graph(urls, rounds=ROUNDS)["spec"]
        fleet.run("KServe's router", [program, "--graph-json", json.dumps(spec)])
        on_ready(f"http://127.0.0.1:{ROUTER_PORT}/")


def ray(models: Models, front: Front, *, on_ready: OnReady) -> None:
    """The Ray Serve application on a Ray of this machine's own.

    Raises:
        UserError: the port is taken.
    """
    check_free(front.host, front.port)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it listens on loopback
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from serving.ray_local import serving  # noqa: PLC0415 - takes seconds to import

    experts = None if models.experts is None else str(models.experts)
    given = {
        "model": str(models.model),
        "experts": experts,
        "studies": front.studies,
        "without_keys": True,  # whether this address needs keys was asked before; behind Ray's proxy it is not seen
    }
    # In this order: Ray takes signals for itself when it starts, and would abort.
    with serving(given, host=front.host, port=front.port), until_told() as stop:
        on_ready(f"http://{front.host}:{front.port}")
        stop.wait()


def single(models: Models, front: Front) -> Sequence[str]:
    """The words of `vilam3 serve` for one process."""
    experts = [] if models.experts is None else ["--experts", str(models.experts)]
    return ["--model", str(models.model), *experts, *front.options()]
