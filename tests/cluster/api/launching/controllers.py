"""The real controllers of Kubeflow Trainer and JobSet, as processes beside the API server, which asks their webhooks.

There is no kubelet: pods are made by Kubernetes' own controller and stay as they are until a test says otherwise.
"""

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.cluster import tools
from infra.cluster.certificates import Authority
from tests.cluster.api.conftest import Kubectl

START_S, POLL_S = 120.0, 0.5
LOOPBACK = "127.0.0.1"
SHOWN_CHARACTERS = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """One of them.

    Attributes:
        tool: Of `infra.cluster.tools`.
        module: Where its manifests are.
        webhooks: File of its webhooks in the module.
        kinds: Folder of its own definitions, where they are not among those of every cluster.
        group: Whose objects its webhooks are asked about; those about pods have no use without a kubelet.
        configuration: Its own, without addresses.
    """

    tool: str
    module: str
    webhooks: str
    kinds: str
    group: str
    configuration: Mapping[str, Any]


CONTROLLERS = (
    Controller(
        tool="jobset-manager",
        module="sigs.k8s.io/jobset",
        webhooks="config/components/webhook/manifests.yaml",
        kinds="config/components/crd/bases",
        group="jobset.x-k8s.io",
        configuration={
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
            "internalCertManagement": {"enable": False},
        },
    ),
    Controller(
        tool="trainer-manager",
        module="github.com/kubeflow/trainer/v2",
        webhooks="manifests/base/webhook/manifests.yaml",
        kinds="",
        group="trainer.kubeflow.org",
        configuration={
            "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
            "certManagement": {"enable": False},
        },
    ),
)


@contextlib.contextmanager
def running(kubeconfig: Path, *, folder: Path, kubectl: Kubectl) -> Iterator[None]:
    """Start both, and end them afterwards with their webhooks.

    Raises:
        PrerequisiteError: they have to be built, and there is no Go.
    """
    folder.mkdir()
    authority = Authority.create(folder, name="webhooks")
    pair = authority.sign(LOOPBACK, file="webhook", hosts=[LOOPBACK])
    bundle = base64.b64encode(authority.files.certificate.read_bytes()).decode("ascii")
    with contextlib.ExitStack() as stack:
        for controller in CONTROLLERS:
            own = folder / controller.tool
            certificates = own / "k8s-webhook-server" / "serving-certs"
            certificates.mkdir(parents=True)
            (certificates / "tls.crt").write_bytes(pair.certificate.read_bytes())
            (certificates / "tls.key").write_bytes(pair.key.read_bytes())
            source = tools.module_folder("trainer", module=controller.module)
            if controller.kinds:
                kubectl("apply", "--server-side", f"--filename={source / controller.kinds}")
                kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            port = stack.enter_context(_process(controller, kubeconfig=kubeconfig, folder=own))
            asked = _webhooks(source / controller.webhooks, controller, port=port, bundle=bundle)
            kubectl("apply", "--server-side", "--filename=-", stdin=asked)
            stack.callback(kubectl, "delete", "--filename=-", stdin=asked)
        yield


@contextlib.contextmanager
def _process(controller: Controller, *, kubeconfig: Path, folder: Path) -> Iterator[int]:
    """One of them, ready; yields the port of its webhooks."""
    program = tools.path(controller.tool)
    port, health = _free_port(), _free_port()
    told = {
        **controller.configuration,
        "kind": "Configuration",
        "webhook": {"port": port, "host": LOOPBACK},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"{LOOPBACK}:{health}"},
        "leaderElection": {"leaderElect": False},
    }
    configuration = folder / "configuration.json"
    configuration.write_text(json.dumps(told), "utf-8")
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "TMPDIR": str(folder)}  # where it looks for its key
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of our builds
            [str(program), f"--config={configuration}"], env=environment, stdout=output, stderr=output, cwd=folder
        )
    try:
        _await_ready(process, health, log)
        yield port
    finally:
        process.terminate()
        process.wait()


def _await_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if _answers(port):
            return
        time.sleep(POLL_S)
    raise AssertionError(f"it is not ready: {log.read_text('utf-8')[-SHOWN_CHARACTERS:]}")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz"):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _webhooks(file: Path, controller: Controller, *, port: int, bundle: str) -> str:
    """Its own description of them, with an address on loopback and a name of its own."""
    found = [one for one in yaml.safe_load_all(file.read_text("utf-8")) if one]
    for one in found:
        one["metadata"]["name"] = f"{controller.tool}-{one['metadata']['name']}"
        one["webhooks"] = [hook for hook in one["webhooks"] if _groups(hook) == {controller.group}]
        for hook in one["webhooks"]:
            path = hook["clientConfig"].pop("service")["path"]
            hook["clientConfig"] = {"url": f"https://{LOOPBACK}:{port}{path}", "caBundle": bundle}
    return yaml.safe_dump_all(found)


def _groups(hook: Mapping[str, Any]) -> set[str]:
    return {group for rule in hook["rules"] for group in rule["apiGroups"]}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])
