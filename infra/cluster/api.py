"""The level `api`: store, API server and controllers on loopback; any user may run it; the machine is not changed."""

import os
from collections.abc import Callable

from infra.cluster import control_plane, kubeconfig, tools
from infra.cluster.control_plane import Credentials
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses, Child, Plan

# Children die with the supervisor and gain nothing. Where root starts them they keep one of root's special rights, to
# read: the files may lie in the folder of a user who lets nobody else in.
WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--no-new-privs")
WITHOUT_RIGHTS = ("--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all")


def plan(layout: Layout, *, say: Callable[[str], None]) -> Plan:
    """Make certificates and kubeconfig, and say what the supervisor is to run."""
    addresses = Addresses.loopback()
    given = control_plane.credentials(layout, addresses=addresses)
    children = control_plane_children(layout, addresses=addresses, given=given, say=say, has_nodes=False)
    confined = [Child(name=child.name, command=[*confinement(), *child.command]) for child in children]
    return Plan(level="api", addresses=addresses, children=confined)


def control_plane_children(
    layout: Layout, *, addresses: Addresses, given: Credentials, say: Callable[[str], None], has_nodes: bool = True
) -> list[Child]:
    """The control plane at `addresses`, with the kubeconfigs of its controllers and of whoever uses the cluster."""
    programs = {name: tools.path(name, say=say) for name in control_plane.PROGRAMS}
    controllers = control_plane.client_kubeconfig(
        layout, addresses=addresses, authority=given.authority, user="system:kube-controller-manager"
    )
    administrator = given.authority.sign("administrator", file="administrator", groups=[control_plane.ADMINISTRATORS])
    kubeconfig.write(
        layout.kubeconfig,
        server=addresses.api_url,
        authority=given.authority.files.certificate,
        client=administrator,
    )
    return control_plane.children(
        layout, addresses=addresses, given=given, programs=programs, controllers=controllers, has_nodes=has_nodes
    )


def confinement() -> list[str]:
    """What is put before a child's command line."""
    return [*WITH_PARENT, *(WITHOUT_RIGHTS if os.geteuid() == 0 else ()), "--"]
