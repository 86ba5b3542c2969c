"""Files that tell a client where the API server is and who the client is."""

import base64
from pathlib import Path
from typing import Any

import yaml

from infra.cluster.certificates import Pair
from vilam3.artifacts import write_text

NAME = "vilam3"  # of the cluster, the user and the context


def write(file: Path, *, server: str, authority: Path, client: Pair) -> Path:
    """Write the kubeconfig `file` with everything in it, so that it can be copied, and return it."""
    write_text(file, yaml.safe_dump(render(server=server, authority=authority, client=client), sort_keys=False))
    return file


def render(*, server: str, authority: Path, client: Pair) -> dict[str, Any]:
    """The kubeconfig as a value."""
    cluster = {"server": server, "certificate-authority-data": _embedded(authority)}
    user = {"client-certificate-data": _embedded(client.certificate), "client-key-data": _embedded(client.key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }


def _embedded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")
