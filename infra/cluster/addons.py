"""What a node needs before something is installed on it: names of services, volumes, the operators of `full`."""

import string
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.cluster import images, kserve, manifests, operators
from infra.cluster.control_plane import DOMAIN
from infra.cluster.layout import Layout
from infra.cluster.plan import Plan

CONFIG = Path(__file__).parent / "config"
READY_TIMEOUT_S = 600
PROGRAMS = ("coredns", "local-path-provisioner")

Load = Callable[[Path], list[str]]


def install(layout: Layout, *, plan: Plan, wanted: Sequence[str], load: Load, say: Callable[[str], None]) -> None:
    """Bring images and manifests to the node and wait until they are ready; harmless when they are.

    Args:
        layout: The cluster's files.
        plan: What was decided on.
        wanted: Names of the operators, at the level `full`.
        load: Imports an image archive into the node.
        say: Told what goes on.
    """
    say("loading the images of the name server and of the volumes ...")
    for archive in (
        images.pause(say=say),
        images.shell(layout.config),
        *(images.program(tool, say=say) for tool in PROGRAMS),
    ):
        load(archive)
    _apply(layout, "coredns.yaml", DOMAIN=DOMAIN, DNS_SERVICE=plan.addresses.dns_service, IMAGE=images.name("coredns"))
    _apply(
        layout,
        "local-path.yaml",
        IMAGE=images.name("local-path-provisioner"),
        SHELL=images.SHELL,
        VOLUMES=str(layout.data / "volumes"),
    )
    wait = f"--timeout={READY_TIMEOUT_S}s"
    manifests.kubectl(layout.kubeconfig, ["wait", "--for=condition=Ready", wait, "node", plan.addresses.name])
    for namespace in ("kube-system", "local-path-storage"):
        manifests.kubectl(
            layout.kubeconfig, ["wait", "--for=condition=Available", wait, "-n", namespace, "deployment", "--all"]
        )
    if plan.level == "full":
        if "kserve" in wanted:
            kserve.install(layout, load=load, say=say)
        operators.install(layout, wanted=wanted, load=load, say=say)


def _apply(layout: Layout, name: str, **values: str) -> None:
    text = string.Template((CONFIG / name).read_text("utf-8")).substitute(values)
    manifests.kubectl(layout.kubeconfig, ["apply", "--server-side", "--filename", "-"], stdin=text)
