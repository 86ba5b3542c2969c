"""Which provider a machine gets, and which one has brought the present cluster up."""

import os
import platform
import shutil
from collections.abc import Callable
from typing import Literal, cast

from infra.cluster.existing import Existing
from infra.cluster.kind import Kind, docker_answers
from infra.cluster.layout import Layout
from infra.cluster.local import Local
from infra.cluster.plan import WITHOUT_NODE, Level
from infra.cluster.provider import Provider
from vilam3.artifacts import write_text
from vilam3.errors import PrerequisiteError

ProviderName = Literal["auto", "kind", "local", "existing"]
PROVIDERS: tuple[ProviderName, ...] = ("auto", "kind", "local", "existing")


def for_new(name: ProviderName, *, level: Level, layout: Layout, say: Callable[[str], None]) -> Provider:
    """The provider to bring a cluster up with; it is noted, so that the other verbs find the same one."""
    chosen = choose(level) if name == "auto" else name
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(layout.provider, chosen)
    return _provider(chosen, layout=layout, say=say)


def for_present(name: ProviderName, *, layout: Layout, say: Callable[[str], None]) -> Provider:
    """The provider of the cluster that is there; the local one when none is."""
    noted = layout.provider.read_text("utf-8") if layout.provider.exists() else "local"
    return _provider(cast("ProviderName", noted) if name == "auto" else name, layout=layout, say=say)


def choose(level: Level) -> ProviderName:
    """Kind where docker answers, else what this machine can build and run by itself.

    Raises:
        PrerequisiteError: Neither is possible here.
    """
    builds = platform.system() == "Linux" and shutil.which("go") is not None
    if builds and level in WITHOUT_NODE:  # takes neither docker nor root
        return "local"
    if shutil.which("kind") is not None and docker_answers():
        return "kind"
    if builds and os.geteuid() == 0:
        return "local"
    raise PrerequisiteError(
        "no way to a cluster here: start docker and install kind, or be root on Linux with Go (PROVIDER=local), "
        "or use the cluster of your current context (PROVIDER=existing)"
    )


def _provider(name: ProviderName, *, layout: Layout, say: Callable[[str], None]) -> Provider:
    if name == "local":
        return Local(layout=layout, say=say)
    if name == "kind":
        return Kind(kubeconfig=layout.kubeconfig, say=say)
    return Existing(kubeconfig=layout.kubeconfig, say=say)
