"""The level `node`: a kubelet with containerd in namespaces of its own; what it changes goes away with them.

Network, mounts and processes are private, so that pods, their mounts and the service proxy's rules cannot outlive the
supervisor. What is left then is named by `remove`.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from infra.cluster import control_groups, network, node_files, tools
from infra.cluster.api import control_plane_children
from infra.cluster.certificates import Authority
from infra.cluster.control_plane import client_kubeconfig, credentials, scheduler_options
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses, Child, Level, Plan
from vilam3.artifacts import write_text
from vilam3.errors import PrerequisiteError

PROGRAMS = ("kube-scheduler", "kubelet", "kube-proxy")
DEBIAN = {  # program: its package
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "busybox": "busybox-static",
}
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
CNI_PACKAGE = "containernetworking-plugins"
# The kubelet insists on these of the whole machine; it is shown what it wants, and the machine keeps its own.
SHOWN_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# Places that the kubelet and the network plug-ins write to whatever they are told: the node sees its own there.
OURS = ".made-for-vilam3-node"  # in such a place that this machine did not have
PRIVATE = {"/var/lib/kubelet": "kubelet", "/var/lib/cni": "cni-results", "/var/log": "log"}


def plan(layout: Layout, *, level: Level, say: Callable[[str], None]) -> Plan:
    """Make the node's network, control group and files, and say what the supervisor is to run."""
    cni = prerequisites()
    programs = {name: tools.path(name, say=say) for name in PROGRAMS}
    addresses = network.create()
    decided = Plan(level=level, addresses=addresses, children=())
    decided.write(layout.plan)  # so that `down` finds what is made from here on
    control_groups.create(addresses.name)
    given = credentials(layout, addresses=addresses)
    control_plane = control_plane_children(layout, addresses=addresses, given=given, say=say)
    node = children(layout, addresses=addresses, authority=given.authority, programs=programs, cni=cni)
    return replace(decided, children=[*control_plane, *node], setup=mounts(layout))


def namespaces(addresses: Addresses) -> list[str]:
    """What is put before the supervisor's command line; sysfs is left as it is, since the control groups are in it."""
    unshared = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    return ["nsenter", f"--net={network.NAMESPACES / addresses.name}", "--", "unshare", *unshared, "--"]


def prerequisites() -> Path:
    """Check that this machine can run a node; where its network plug-ins lie.

    Raises:
        PrerequisiteError: The user is not root, or packages are missing.
    """
    if os.geteuid() != 0:
        raise PrerequisiteError("a node needs root; run as root, or use --level api, which any user may run")
    missing = {package for program, package in DEBIAN.items() if shutil.which(program) is None}
    folders = [folder for folder in CNI_FOLDERS if all((folder / plugin).exists() for plugin in CNI_PLUGINS)]
    missing |= set() if folders else {CNI_PACKAGE}
    if missing:
        raise PrerequisiteError(f"a node needs packages that are not here: apt-get install {' '.join(sorted(missing))}")
    return folders[0]


def mounts(layout: Layout) -> list[list[str]]:
    """Commands that make the node's own places; they run in its mount namespace and are undone with it."""
    made = [["mount", "--make-rshared", "/"], ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]]
    made += [["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]]  # of the namespace
    for place, name in PRIVATE.items():
        (layout.data / name).mkdir(exist_ok=True)
        if not Path(place).exists():
            Path(place).mkdir(parents=True)
            (Path(place) / OURS).touch()
        made.append(["mount", "--bind", str(layout.data / name), place])
    for name, value in SHOWN_SYSCTLS.items():
        shown = layout.config / "sysctls" / name.replace("/", ".")
        write_text(shown, f"{value}\n")
        made.append(["mount", "--bind", str(shown), f"/proc/sys/{name}"])
    return made


def children(
    layout: Layout, *, addresses: Addresses, authority: Authority, programs: dict[str, Path], cni: Path
) -> list[Child]:
    """The node's programs with their whole command lines."""
    name = addresses.name
    clients = {
        component: client_kubeconfig(
            layout, addresses=addresses, authority=authority, user=f"system:{component}", groups=groups
        )
        for component, groups in {f"node:{name}": ["system:nodes"], "kube-proxy": [], "kube-scheduler": []}.items()
    }
    serving = authority.sign(name, file="kubelet-server", hosts=[name, addresses.node])
    files = node_files.write(
        layout,
        addresses=addresses,
        cni_programs=cni,
        proxy_client=clients["kube-proxy"],
        serving=serving,
        clients_authority=authority.files.certificate,
    )
    lines: dict[str, list[str | Path]] = {
        "containerd": [shutil.which("containerd") or "containerd", f"--config={files.containerd}"],
        "kube-scheduler": [programs["kube-scheduler"], *scheduler_options(client=clients["kube-scheduler"])],
        "kubelet": [
            programs["kubelet"],
            f"--config={files.kubelet}",
            f"--kubeconfig={clients[f'node:{name}']}",
            f"--hostname-override={name}",
            f"--node-ip={addresses.node}",
        ],
        "kube-proxy": [programs["kube-proxy"], f"--config={files.proxy}"],
    }
    return [Child(name=child, command=[str(word) for word in line]) for child, line in lines.items()]


def remove(made: Plan) -> None:
    """Remove what outlives the node's namespaces; its processes have been ended."""
    control_groups.remove(made.addresses.name)
    network.remove(made.addresses.name)
    if not network.names():  # else another node may have these as its mount points
        for place in PRIVATE:
            if (Path(place) / OURS).exists():
                (Path(place) / OURS).unlink()
                Path(place).rmdir()
