"""KServe in Standard mode, from the chart in its module; cert-manager's part is done here."""

import base64
import json
import string
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from infra.cluster import images, operators, tools
from infra.cluster.certificates import Authority, Pair
from infra.cluster.control_plane import DOMAIN
from infra.cluster.layout import Layout
from infra.cluster.operators import Load, Manifest
from infra.images.catalogue import find
from vilam3.errors import ClusterError

VALUES = Path(__file__).parent / "config" / "kserve-values.yaml"
MODULE = "github.com/kserve/kserve"
CHART = "charts/kserve-resources"
NAMESPACE = "kserve"
PROGRAMS = ("kserve-manager", "kserve-router", "kserve-agent")
WEBHOOKS = f"kserve-webhook-server-service.{NAMESPACE}.svc"
SECRET = "kserve-webhook-server-cert"  # noqa: S105 - a name
FOREIGN_GROUPS = ("cert-manager.io",)
STORAGE_INITIALIZER = "storage-initializer"  # an image of infra/images; who uses it loads it
CONFIGURATION = "inferenceservice-config"
PROPAGATED = (
    "Authorization",
)  # a graph's router passes its caller's key on to the steps; the chart has no value for it
CONTAINERS = {"manager": "kserve-manager"}  # without the proxy that guards its metrics, which no module here holds


def install(layout: Layout, *, load: Load, say: Callable[[str], None]) -> None:
    """Install KServe and wait until its webhooks answer; harmless when they do."""
    say("installing kserve ...")
    for tool in PROGRAMS:
        load(images.program(tool, say=say))
    operators.apply(layout, [operators.namespace(NAMESPACE)])
    found = rendered(layout)
    late = {"ClusterStorageContainer"}  # checked by a webhook
    operators.apply(layout, [manifest for manifest in found if manifest["kind"] not in late])
    operators.await_deployments(layout, namespace=NAMESPACE)
    operators.apply(layout, [manifest for manifest in found if manifest["kind"] in late])


def rendered(layout: Layout) -> list[Manifest]:
    """KServe's manifests, with a certificate of its own for the webhooks."""
    authority = Authority.create(layout.certificates, name="webhook-authority")
    server = authority.sign(WEBHOOKS, file="webhook", hosts=[WEBHOOKS, f"{WEBHOOKS}.{DOMAIN}"])
    kept = [manifest for manifest in _chart(layout) if manifest["apiVersion"].partition("/")[0] not in FOREIGN_GROUPS]
    return [_secret(server), *(_adapted(manifest, authority=authority) for manifest in kept)]


def _chart(layout: Layout) -> Iterable[Manifest]:
    names = {tool: images.name(f"kserve-{tool}").rpartition(":")[0] for tool in ("agent", "router", "manager")}
    values = {tool.upper(): reference for tool, reference in names.items()}
    template = string.Template(VALUES.read_text("utf-8"))
    values["STORAGE"], _, values["STORAGE_TAG"] = find(STORAGE_INITIALIZER).name().rpartition(":")
    text = template.substitute(values, VERSION=tools.version("kserve-manager"), DOMAIN=DOMAIN)
    chart = tools.module_folder("kserve", module=MODULE) / CHART
    command = [str(tools.path("helm")), "template", NAMESPACE, str(chart), f"--namespace={NAMESPACE}", "--values=-"]
    ran = subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=layout.config)  # noqa: S603 - our own arguments
    if ran.returncode:
        raise ClusterError(f"KServe's chart does not render: {ran.stderr.strip()}")
    return (manifest for manifest in yaml.safe_load_all(ran.stdout) if manifest)


def _adapted(manifest: Manifest, *, authority: Authority) -> Manifest:
    bundle = base64.b64encode(authority.files.certificate.read_bytes()).decode("ascii")
    for webhook in manifest.get("webhooks", []):
        webhook["clientConfig"]["caBundle"] = bundle
    if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] == CONFIGURATION:
        router = json.loads(manifest["data"]["router"])
        manifest["data"]["router"] = json.dumps(router | {"headers": {"propagate": list(PROPAGATED)}})
    operators.adapt(manifest, programs=CONTAINERS)
    return manifest


def _secret(server: Pair) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"tls.crt": server.certificate.read_text("ascii"), "tls.key": server.key.read_text("ascii")},
    }
