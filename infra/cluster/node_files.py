"""The configuration files of a node: containerd, its network, the kubelet, the service proxy; values in, files out."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.cluster.certificates import Pair
from infra.cluster.control_plane import DOMAIN
from infra.cluster.layout import Layout
from infra.cluster.plan import Addresses
from vilam3.artifacts import write_json, write_text

TEMPLATE = Path(__file__).parent / "config" / "containerd.toml"
SOCKET = "/run/containerd/containerd.sock"  # in the node's own /run
PAUSE_IMAGE = "docker.io/vilam3/pause:1"
MAX_PODS = 110
LEAST_DISK = "1Gi"  # below it the kubelet takes pods away
POD_MTU = 1500
RESERVED = {"cpu": "100m", "memory": "256Mi"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFiles:
    """Where the configuration files of a node lie."""

    containerd: Path
    kubelet: Path
    proxy: Path


def write(
    layout: Layout,
    *,
    addresses: Addresses,
    cni_programs: Path,
    proxy_client: Path,
    serving: Pair,
    clients_authority: Path,
) -> NodeFiles:
    """Write them all.

    Args:
        layout: Where they go.
        addresses: The node's.
        cni_programs: Folder of the network plug-ins.
        proxy_client: Kubeconfig of the service proxy.
        serving: The kubelet's certificate as a server.
        clients_authority: Who signs those that may talk to the kubelet.
    """
    files = NodeFiles(
        containerd=layout.config / "containerd.toml",
        kubelet=layout.config / "kubelet.yaml",
        proxy=layout.config / "kube-proxy.yaml",
    )
    names = {
        "DATA": str(layout.data),
        "CONFIG": str(layout.config),
        "SOCKET": SOCKET,
        "PAUSE": PAUSE_IMAGE,
        "CNI_PROGRAMS": str(cni_programs),
    }
    write_text(files.containerd, string.Template(TEMPLATE.read_text("utf-8")).substitute(names))
    write_json(layout.config / "cni" / "10-vilam3.conflist", network(addresses, data=layout.data / "cni"))
    write_text(layout.config / "resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    settings = kubelet(layout, addresses=addresses) | security(serving, clients_authority=clients_authority)
    write_text(files.kubelet, yaml.safe_dump(settings))
    write_text(files.proxy, yaml.safe_dump(proxy(addresses, client=proxy_client)))
    return files


def network(addresses: Addresses, *, data: Path) -> dict[str, Any]:
    """The pods' network: one bridge, addresses from the pods' range, and host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "mtu": POD_MTU,
        "ipam": {
            "type": "host-local",
            "dataDir": str(data),
            "ranges": [[{"subnet": addresses.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "vilam3", "plugins": [bridge, ports]}


def security(serving: Pair, *, clients_authority: Path) -> dict[str, Any]:
    """How the kubelet and those who talk to it prove who they are; what they may do, the API server says."""
    return {
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(clients_authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
    }


def kubelet(layout: Layout, *, addresses: Addresses) -> dict[str, Any]:
    """The kubelet's configuration; its control groups lie below one of the cluster's own."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": addresses.node,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{addresses.name}",
        "enforceNodeAllocatable": ["pods"],
        "systemReserved": RESERVED,
        "failSwapOn": False,
        "maxPods": MAX_PODS,
        "clusterDNS": [addresses.dns_service],
        "clusterDomain": DOMAIN,
        "resolvConf": str(layout.config / "resolv.conf"),
        "volumePluginDir": str(layout.data / "volume-plugins"),
        "imageGCHighThresholdPercent": 100,  # an image that is collected cannot be pulled again
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": LEAST_DISK, "imagefs.available": LEAST_DISK},
        "oomScoreAdj": 0,  # less takes a right that a container may lack
        "nodeStatusUpdateFrequency": "5s",
    }


def proxy(addresses: Addresses, *, client: Path) -> dict[str, Any]:
    """The service proxy's configuration; limits of connection tracking belong to the machine and stay as they are."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(client)},
        "oomScoreAdj": 0,
        "clusterCIDR": addresses.pods,
        "hostnameOverride": addresses.name,
        "bindAddress": addresses.node,
        "healthzBindAddress": f"{addresses.node}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "1s", "syncPeriod": "30s"},
    }
