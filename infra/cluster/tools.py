"""Programs built from the Go modules that ``infra/tools`` pins, each once: where they lie, and how they are built.

A folder of ``infra/tools`` is one family: a go.mod and a go.sum, and its versions are told nowhere else. What is built
lies outside the checkout, under a key of everything that can change it: right when it is empty, and never stale.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.took import Took, measured
from vilam3.artifacts import write_json
from vilam3.errors import ClusterError, NotFoundError, PrerequisiteError

INFRA = Path(__file__).parents[1]
FAMILIES = (INFRA / "tools", INFRA / "images")  # programs of others by their pins, and our own by their source
KUBERNETES = "k8s.io/kubernetes"
STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")  # packages that hold its version
FLAGS = ("-trimpath", "-buildvcs=false")
STATIC = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
SHOWN_LINES = 12  # of a build that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program of a family; `package` is its import path, one of the ``tool`` lines of the family's go.mod."""

    name: str
    family: str
    package: str


def _tools(family: str, **packages: str) -> list[Tool]:
    return [
        Tool(name=name.replace("_", "-"), family=family, package=package) for name, package in sorted(packages.items())
    ]


TOOLS = {
    tool.name: tool
    for tool in [
        *_tools("coredns", coredns="github.com/coredns/coredns"),
        *_tools("etcd", etcd="go.etcd.io/etcd/server/v3"),
        *_tools("helm", helm="helm.sh/helm/v4/cmd/helm"),
        *_tools(
            "k8s",
            kube_apiserver=f"{KUBERNETES}/cmd/kube-apiserver",
            kube_controller_manager=f"{KUBERNETES}/cmd/kube-controller-manager",
            kube_proxy=f"{KUBERNETES}/cmd/kube-proxy",
            kube_scheduler=f"{KUBERNETES}/cmd/kube-scheduler",
            kubectl=f"{KUBERNETES}/cmd/kubectl",
            kubelet=f"{KUBERNETES}/cmd/kubelet",
        ),
        *_tools(
            "keda",
            keda_adapter="github.com/kedacore/keda/v2/cmd/adapter",
            keda_operator="github.com/kedacore/keda/v2/cmd/operator",
        ),
        *_tools(
            "kserve",
            kserve_agent="github.com/kserve/kserve/cmd/agent",
            kserve_manager="github.com/kserve/kserve/cmd/manager",
            kserve_router="github.com/kserve/kserve/cmd/router",
        ),
        *_tools("kuberay", ray_operator="github.com/ray-project/kuberay/ray-operator"),
        *_tools("kwok", kwok="sigs.k8s.io/kwok/cmd/kwok"),
        *_tools("localpath", local_path_provisioner="github.com/rancher/local-path-provisioner"),
        *_tools("metrics", metrics_server="sigs.k8s.io/metrics-server/cmd/metrics-server"),
        *_tools("pause", pause="."),
        *_tools(
            "trainer",
            jobset_manager="sigs.k8s.io/jobset",
            trainer_manager="github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager",
        ),
        *_tools("versitygw", versitygw="github.com/versity/versitygw/cmd/versitygw"),
    ]
}


def path(name: str, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Where the program `name` lies; builds it if it is not there.

    Args:
        name: A key of `TOOLS`.
        say: Told what is built before it is.

    Raises:
        NotFoundError: There is no such tool.
        PrerequisiteError: It has to be built, and Go is absent or too old.
        ClusterError: The build failed.
    """
    if name not in TOOLS:
        raise NotFoundError(f"tool {name}: not among {', '.join(sorted(TOOLS))}")
    tool, program = TOOLS[name], _place(name)
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        with _lock(program.parent / ".lock"):
            if not program.exists():
                say(f"building {name} from infra/{folder(tool.family).relative_to(INFRA)} ...")
                _build(tool, out=program)
    return program


def took(name: str) -> Took | None:
    """How long the build of a program took that lies in the cache; None where that was not noted.

    Whatever the compiler had kept of earlier builds was not compiled again.
    """
    note = _note(_place(name))
    return Took(**json.loads(note.read_text("utf-8"))) if note.exists() else None


def is_built(name: str) -> bool:
    """Whether a program lies in the cache."""
    return _place(name).exists()


def _place(name: str) -> Path:
    return cache() / "tools" / key(TOOLS[name].family, go_version=go_version()) / "bin" / name


def cache() -> Path:
    """The folder of everything that is built once: VILAM3_CACHE, or ~/.cache/vilam3."""
    return Path(os.environ.get("VILAM3_CACHE") or Path.home() / ".cache" / "vilam3").absolute()


def key(family: str, *, go_version: str) -> str:
    """What a family's programs depend on, as a folder's name: pins, sums, compiler, platform and flags."""
    files = sorted(file for file in folder(family).iterdir() if file.suffix in {".mod", ".sum", ".go"})
    parts = [go_version, platform.machine(), *(file.read_text("utf-8") for file in files)]
    parts += [*FLAGS, *link_flags(family), *(f"{name}={value}" for name, value in sorted(STATIC.items()))]
    return f"{family}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def folder(family: str) -> Path:
    """Where the pins of a family lie."""
    return next(root / family for root in FAMILIES if (root / family / "go.mod").exists())


def link_flags(family: str) -> list[str]:
    """What the linker is told: no debugging tables, and for Kubernetes its version, else reported as 0.0.0."""
    if family != "k8s":
        return ["-s", "-w"]
    stamp = version("kubelet")
    major, minor, _ = stamp.removeprefix("v").split(".", 2)
    facts = {"gitVersion": stamp, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamped = [f"-X={package}.{name}={value}" for package in STAMPED for name, value in facts.items()]
    return ["-s", "-w", *stamped]


def version(name: str) -> str:
    """The version of the module that a program is built from, such as ``v1.34.4``."""
    tool = TOOLS[name]
    pins = (folder(tool.family) / "go.mod").read_text("utf-8")
    required = dict(re.findall(r"^(?:require)?\s+(\S+) (v\S+)", pins, re.MULTILINE))
    modules = [module for module in required if f"{tool.package}/".startswith(f"{module}/")]
    if not modules:
        raise ClusterError(f"infra/tools/{tool.family}/go.mod: requires nothing that holds {tool.package}")
    return required[max(modules, key=len)]


def module_folder(family: str, *, module: str) -> Path:
    """Where the source of `module` lies, in the version that `family` pins; downloads it if need be.

    Manifests are taken from there, so that they are those of the programs that are built.
    """
    answer = _go("mod", "download", "-json", module, family=family)
    return Path(json.loads(answer)["Dir"])


def go_version() -> str:
    """The compiler's version, such as ``go1.26.8``.

    Raises:
        PrerequisiteError: There is no Go.
    """
    if shutil.which("go") is None:
        raise PrerequisiteError(
            "go is not on PATH; install Go 1.26 or newer, from which the cluster's programs are built"
        )
    return _go("env", "GOVERSION").strip()


def _build(tool: Tool, *, out: Path) -> None:
    part = out.with_name(f".{out.name}.part")
    flags = " ".join(link_flags(tool.family))
    with measured() as took:
        _go("build", *FLAGS, f"-ldflags={flags}", "-o", str(part), tool.package, family=tool.family)
    write_json(_note(out), asdict(took))
    part.replace(out)


def _note(program: Path) -> Path:
    return program.with_name(f"{program.name}.took.json")


def _go(*arguments: str, family: str = "") -> str:
    command = ["go", *arguments]
    ran = subprocess.run(  # noqa: S603 - our own arguments
        command,
        cwd=folder(family) if family else INFRA,
        env=os.environ | STATIC,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        last = "\n".join(ran.stderr.splitlines()[-SHOWN_LINES:])
        raise ClusterError(f"{family}: go {' '.join(arguments[:2])} failed; its last words:\n{last}")
    return ran.stdout


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """One builder at a time; who comes second finds the program built."""
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
