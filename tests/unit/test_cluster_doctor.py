"""Rules of `vilam3 doctor --cluster`: what is missing is a sentence with its remedy. Asked over HTTP, as usual."""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from vilam3 import cluster_doctor as doctor
from vilam3 import platform
from vilam3.cli import doctor as verb
from vilam3.cluster import Cluster
from vilam3.cluster_doctor import Needs
from vilam3.doctor import Finding
from vilam3.errors import NotFoundError, PrerequisiteError

GPU = "nvidia.com/gpu"


class Api(BaseHTTPRequestHandler):
    """An API server that lists what it is given, has two Secrets, and lets nobody read Deployments of a name."""

    lists: ClassVar[Mapping[str, list[dict[str, Any]]]] = {}
    minor: ClassVar[str] = "34"
    forbidden: ClassVar[str] = "nothing"

    def do_GET(self) -> None:
        """Answer a read."""
        path, _, _ = self.path.partition("?")
        kind = path.rpartition("/")[2]
        if kind == self.forbidden:
            self._answer(403, {"message": "no"})
        elif path == "/version/":
            told = ("buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "platform")
            self._answer(200, {"major": "1", "minor": self.minor, **dict.fromkeys(told, "x")})
        elif "/secrets/" in path:
            found = {"keys": {"keys": "aQ=="}}.get(kind)
            self._answer(200 if found else 404, {"data": found} if found else {"message": "not found"})
        else:
            self._answer(200, {"items": self.lists.get(kind, [])})

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _definition(kind: str) -> dict[str, Any]:
    group, version, name = kind.split("/")
    served = {"name": version, "served": True, "storage": True}
    spec = {"group": group, "names": {"kind": name, "plural": "x"}, "scope": "Namespaced", "versions": [served]}
    return {"metadata": {"name": kind}, "spec": spec}


def _deployment(name: str, image: str, *, ready: int = 1) -> dict[str, Any]:
    pod = {"spec": {"containers": [{"name": "a", "image": image}]}}
    spec = {"selector": {}, "template": pod}
    return {"metadata": {"name": name}, "spec": spec, "status": {"readyReplicas": ready}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Api]]:
    """A server of its own class, so that a test may set what it has, and a KUBECONFIG that names it."""
    wanted = platform.load().operator("kserve")
    lists = {
        "customresourcedefinitions": [_definition(kind) for kind in wanted.kinds],
        "deployments": [_deployment(wanted.deployment, f"kserve/kserve-controller:v{wanted.version}")],
        "storageclasses": [
            {"metadata": {"name": "fast", "annotations": {}}, "provisioner": "p"},
            {
                "metadata": {"name": "slow", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": "p",
            },
        ],
        "nodes": [{"metadata": {"name": "a"}, "status": {"allocatable": {GPU: "8"}}}] * 2,
    }
    handler = type("Given", (Api,), {"lists": lists})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        place = {"server": f"http://127.0.0.1:{listening.server_port}"}
        told = {
            "clusters": [{"name": "c", "cluster": place}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(told))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        yield handler
        listening.shutdown()


def _examine(needs: Needs) -> dict[str, Finding]:
    return {one.name: one for one in doctor.examine(Cluster.connect(), needs, platform=platform.load())}


def test_a_cluster_with_everything_passes(api: type[Api]) -> None:
    needs = Needs(operators=["kserve"], secrets=["keys:keys"], accelerator=GPU, storage_class="")
    found = _examine(needs)
    assert [one.name for one in found.values() if one.state == "fail"] == []
    assert found["operator kserve"].state == "ok"
    assert found["accelerators"].sentence == f"The nodes offer 16 of {GPU}."
    assert found["storage class"].sentence == "Claims are served by slow."
    assert api.minor == "34"


def test_an_operator_that_is_needed_fails_and_one_that_is_not_is_a_note(api: type[Api]) -> None:
    found = _examine(Needs(operators=["kserve", "keda"]))
    assert (found["operator keda"].state, found["operator kueue"].state) == ("fail", "note")
    assert "no keda.sh/v1alpha1/ScaledObject" in found["operator keda"].sentence
    assert "helm install keda" in found["operator keda"].remedy
    assert api.lists


@pytest.mark.parametrize(("ready", "said"), [(0, "has no ready pod"), (None, "is not there")])
def test_kinds_without_their_controller_are_not_enough(api: type[Api], ready: int | None, said: str) -> None:
    name = platform.load().operator("kserve").deployment
    given = [] if ready is None else [_deployment(name, "x", ready=ready)]
    api.lists = {**api.lists, "deployments": given}
    found = _examine(Needs(operators=["kserve"]))["operator kserve"]
    assert found.state == "fail"
    assert said in found.sentence


def test_another_version_is_a_note(api: type[Api]) -> None:
    name = platform.load().operator("kserve").deployment
    api.lists = {**api.lists, "deployments": [_deployment(name, "kserve/kserve-controller:v0.11.0")]}
    found = _examine(Needs(operators=["kserve"]))["operator kserve"]
    assert (found.state, "v0.11.0" in found.sentence) == ("note", True)


@pytest.mark.parametrize(
    ("needs", "name", "sentence"),
    [
        (Needs(secrets=["gone:keys"], namespace="n"), "secret gone", "There is no Secret gone in namespace n."),
        (Needs(secrets=["keys:internal"]), "secret keys", "Secret keys has no key internal; it has keys."),
        (Needs(accelerator="amd.com/gpu"), "accelerators", "No node offers amd.com/gpu."),
        (Needs(storage_class="gold"), "storage class", "The cluster has no StorageClass gold; it has fast, slow."),
    ],
)
def test_what_is_missing_is_said_with_its_remedy(api: type[Api], needs: Needs, name: str, sentence: str) -> None:
    found = _examine(needs)[name]
    assert (found.state, found.sentence) == ("fail", sentence)
    assert found.remedy
    assert api.lists


def test_an_old_kubernetes_ends_the_examination(api: type[Api]) -> None:
    api.minor = "29+"
    found = _examine(Needs(operators=["kserve"]))
    assert list(found) == ["Kubernetes"]
    assert found["Kubernetes"].state == "fail"


def test_a_right_that_is_missing_is_one_failure_and_not_the_end(api: type[Api]) -> None:
    api.forbidden = "nodes"
    found = _examine(Needs(operators=["kserve"], accelerator=GPU))
    assert "HTTP 403" in found["accelerators"].sentence
    assert found["accelerators"].remedy.startswith("Ask for the right")
    assert found["operator kserve"].state == "ok"


def test_an_operator_nobody_knows_is_the_callers_mistake(api: type[Api]) -> None:
    with pytest.raises(NotFoundError, match=r"operator k9s: not one .* there are cert-manager"):
        _examine(Needs(operators=["k9s"]))
    assert api.lists


def test_a_cluster_out_of_reach_is_a_finding(api: type[Api], tmp_path: Path) -> None:
    config = tmp_path / "config"
    told = yaml.safe_load(config.read_text())
    told["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    config.write_text(yaml.safe_dump(told))
    found = _examine(Needs())
    assert "out of reach" in found["Kubernetes"].sentence
    assert api.lists


def test_without_any_cluster_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(PrerequisiteError, match="set KUBECONFIG"):
        Cluster.connect()


def test_the_verb_says_how_many_failed(api: type[Api], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    verb.register(parser.add_subparsers())
    asked = ["doctor", "--cluster", "--need", "kserve", "--secret", "gone:keys"]
    arguments = parser.parse_args(asked)
    assert verb.run(arguments) == 2
    assert "1 failed." in capsys.readouterr().out
    assert verb.run(parser.parse_args([*asked[:4], "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert api.lists


def test_the_platform_is_installed_in_an_order_that_can_be_told() -> None:
    told = platform.load()
    names = [one.name for one in told.operators]
    assert names.index("cert-manager") < names.index("kserve")
    assert len(set(names)) == len(names)
    for one in told.operators:
        assert one.version in one.install, one.name
