"""The control plane's certificates, kubeconfigs and command lines; pure but for the files that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.cluster import kubeconfig
from infra.cluster.certificates import Authority, Pair, signing_keys
from infra.cluster.layout import Layout
from infra.cluster.plan import LOOPBACK, Addresses, Child

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
# Or pods that are told to be on some machine are removed, some time or other, because nobody knows that machine.
WITHOUT_NODES = ("--controllers=*,-pod-garbage-collector-controller",)
DOMAIN = "cluster.local"
ADMINISTRATORS = "system:masters"
FRONT_PROXY = "front-proxy-client"
EVENTS_KEPT = "1h"
AUTOSCALER_PERIOD = "5s"  # a test does not want to wait the usual 15 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the control plane's programs prove themselves with."""

    authority: Authority
    server: Pair
    client: Pair
    front_authority: Authority
    front_client: Pair
    accounts: Pair


def credentials(layout: Layout, *, addresses: Addresses) -> Credentials:
    """Make the authorities and the API server's certificates."""
    authority = Authority.create(layout.certificates, name="authority")
    front = Authority.create(layout.certificates, name="front-authority")
    return Credentials(
        authority=authority,
        server=authority.sign("kube-apiserver", file="server", hosts=server_hosts(addresses)),
        client=authority.sign("kube-apiserver-client", file="client", groups=[ADMINISTRATORS]),
        front_authority=front,
        front_client=front.sign(FRONT_PROXY, file="front-client"),
        accounts=signing_keys(layout.certificates, name="accounts"),
    )


def server_hosts(addresses: Addresses) -> list[str]:
    """Names and addresses under which clients on this machine and in pods reach the API server and the store."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
    return list(dict.fromkeys([*names, "localhost", LOOPBACK, addresses.node, addresses.api_service]))


def client_kubeconfig(
    layout: Layout, *, addresses: Addresses, authority: Authority, user: str, groups: Sequence[str] = ()
) -> Path:
    """A kubeconfig for one component, which is `user`."""
    name = user.rpartition(":")[2]
    return kubeconfig.write(
        layout.certificates / f"{name}.kubeconfig",
        server=addresses.api_url,
        authority=authority.files.certificate,
        client=authority.sign(user, file=name, groups=groups),
    )


def children(
    layout: Layout,
    *,
    addresses: Addresses,
    given: Credentials,
    programs: dict[str, Path],
    controllers: Path,
    has_nodes: bool = True,
) -> list[Child]:
    """The programs of the control plane with their whole command lines.

    Args:
        layout: Where their data lie.
        addresses: Where they listen.
        given: Certificates and keys.
        programs: Path of each of `PROGRAMS`.
        controllers: Kubeconfig of the controller manager.
        has_nodes: Whether there will be any.
    """
    lines = {
        "etcd": etcd_options(layout, addresses=addresses, given=given),
        "kube-apiserver": apiserver_options(addresses=addresses, given=given),
        "kube-controller-manager": [
            *controller_options(addresses=addresses, given=given, client=controllers),
            *([] if has_nodes else WITHOUT_NODES),
        ],
    }
    return [Child(name=name, command=[str(programs[name]), *options]) for name, options in lines.items()]


def etcd_options(layout: Layout, *, addresses: Addresses, given: Credentials) -> list[str]:
    """A store of one member that only certificates of ours can read."""
    peer = f"http://{LOOPBACK}:{addresses.etcd_peer_port}"
    return [
        f"--data-dir={layout.data / 'etcd'}",
        f"--listen-client-urls={addresses.etcd_url}",
        f"--advertise-client-urls={addresses.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={given.server.certificate}",
        f"--key-file={given.server.key}",
        f"--trusted-ca-file={given.authority.files.certificate}",
        "--client-cert-auth",
        "--unsafe-no-fsync",  # nothing here outlives `down`
        "--log-level=warn",
    ]


def apiserver_options(*, addresses: Addresses, given: Credentials) -> list[str]:
    """The API server, on the cluster's one address."""
    authority = given.authority.files.certificate
    return [
        f"--etcd-servers={addresses.etcd_url}",
        "--request-timeout=5m",  # a large kind takes long to take in where the machine does something else
        f"--etcd-cafile={authority}",
        f"--etcd-certfile={given.client.certificate}",
        f"--etcd-keyfile={given.client.key}",
        f"--bind-address={addresses.node}",
        f"--advertise-address={addresses.node}",
        f"--secure-port={addresses.api_port}",
        # On loopback there is no address that a pod could use, and no pod.
        *(["--endpoint-reconciler-type=none"] if addresses.node == LOOPBACK else []),
        f"--service-cluster-ip-range={addresses.services}",
        f"--tls-cert-file={given.server.certificate}",
        f"--tls-private-key-file={given.server.key}",
        f"--client-ca-file={authority}",
        f"--kubelet-certificate-authority={authority}",
        f"--kubelet-client-certificate={given.client.certificate}",
        f"--kubelet-client-key={given.client.key}",
        "--kubelet-preferred-address-types=InternalIP",  # the node's name is in no DNS
        f"--requestheader-client-ca-file={given.front_authority.files.certificate}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={given.front_client.certificate}",
        f"--proxy-client-key-file={given.front_client.key}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={given.accounts.certificate}",
        f"--service-account-signing-key-file={given.accounts.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--event-ttl={EVENTS_KEPT}",
        "--profiling=false",
    ]


def controller_options(*, addresses: Addresses, given: Credentials, client: Path) -> list[str]:
    """Garbage collection, namespaces' deletion and the workload controllers."""
    return [
        f"--kubeconfig={client}",
        f"--service-account-private-key-file={given.accounts.key}",
        f"--root-ca-file={given.authority.files.certificate}",
        f"--cluster-signing-cert-file={given.authority.files.certificate}",
        f"--cluster-signing-key-file={given.authority.files.key}",
        f"--cluster-cidr={addresses.pods}",
        f"--service-cluster-ip-range={addresses.services}",
        f"--horizontal-pod-autoscaler-sync-period={AUTOSCALER_PERIOD}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",  # there is one, and a lost lease would end it
        "--secure-port=0",
        "--profiling=false",
    ]


def scheduler_options(*, client: Path) -> list[str]:
    """The scheduler, which runs where there are nodes."""
    return [f"--kubeconfig={client}", "--leader-elect=false", "--secure-port=0", "--profiling=false"]
