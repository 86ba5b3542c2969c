"""The check before an installation, with the rights that the chart gives it and no others."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import NAMESPACE, RELEASE, of_kind, render
from vilam3.platform import load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
Kubectl = Callable[..., str]
SCENARIO = "cpu-smoke"
ACCOUNT = f"{RELEASE}-preflight"
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@pytest.fixture
def rights(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """The objects by which the check may read, as the hook makes them."""
    rendered = render(SCENARIO)
    hooks = [one for kind in RIGHTS for one in of_kind(rendered, kind).values() if _is_preflight(one)]
    assert {one["kind"] for one in hooks} == set(RIGHTS)
    kubectl("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(hooks))
    yield namespace
    for kind in ("clusterrole", "clusterrolebinding"):
        kubectl("delete", kind, f"{NAMESPACE}-{ACCOUNT}")


def _is_preflight(one: dict[str, Any]) -> bool:
    return bool(one["metadata"]["labels"]["app.kubernetes.io/component"] == "preflight")


@pytest.fixture
def doctor(kubectl: Kubectl, kubeconfig: Path, rights: str, tmp_path: Path) -> Callable[[], tuple[int, dict[str, str]]]:
    """Run what the hook's container runs, as its account: exit code, and state by what was checked."""
    told: dict[str, Any] = yaml.safe_load(kubeconfig.read_text("utf-8"))
    token = kubectl("create", "token", ACCOUNT, f"--namespace={rights}").strip()
    told["users"] = [{"name": told["users"][0]["name"], "user": {"token": token}}]
    identity = tmp_path / "kubeconfig"
    identity.write_text(yaml.safe_dump(told), "utf-8")
    job = of_kind(render(SCENARIO), "Job")[ACCOUNT]
    words = job["spec"]["template"]["spec"]["containers"][0]["args"]

    def run() -> tuple[int, dict[str, str]]:
        command = [sys.executable, "-m", "vilam3", *words, "--json"]
        environment = os.environ | {"KUBECONFIG": str(identity)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        findings = json.loads(ran.stdout)["findings"]
        assert "HTTP 403" not in ran.stdout, ran.stdout
        return ran.returncode, {one["name"]: one["state"] for one in findings}

    return run


def test_what_is_missing_is_named(doctor: Callable[[], tuple[int, dict[str, str]]]) -> None:
    """On an API server without controllers, Secrets and volumes all of it is, and what is optional is a note."""
    code, states = doctor()
    assert code == 2
    failed = {name for name, state in states.items() if state == "fail"}
    assert failed == {
        "operator kserve",
        "secret vilam3-api-keys",
        "secret vilam3-s3",
        "secret vilam3-postgresql",
        "storage class",
    }
    assert states["operator kueue"] == "note"


def test_a_cluster_that_has_everything_passes(
    doctor: Callable[[], tuple[int, dict[str, str]]], kubectl: Kubectl
) -> None:
    _make_controller(kubectl, "kserve")
    _make_storage_class(kubectl)
    for name, keys in {
        "vilam3-api-keys": ("keys", "internal"),
        "vilam3-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "vilam3-postgresql": ("password",),
    }.items():
        literals = [f"--from-literal={key}=not-a-real-one" for key in keys]
        kubectl("create", "secret", "generic", name, f"--namespace={NAMESPACE}", *literals)
    code, states = doctor()
    assert (code, {state for state in states.values() if state == "fail"}) == (0, set())
    assert states["operator kserve"] == "ok"


def test_it_may_read_no_other_secret(kubectl: Kubectl, rights: str) -> None:
    account = f"--as=system:serviceaccount:{rights}:{ACCOUNT}"
    asked = ("auth", "can-i", "get", "secrets/somebody-elses", f"--namespace={rights}", account)
    with pytest.raises(Exception, match="can-i"):  # kubectl says no with exit code 1
        kubectl(*asked)
    assert kubectl("auth", "can-i", "list", "nodes", account).strip() == "yes"


def _make_controller(kubectl: Kubectl, name: str) -> None:
    """A Deployment of an operator's name, whose pod says that it is ready: there is no node here to run it."""
    wanted = load().operator(name)
    here = f"--namespace={NAMESPACE}"
    kubectl("create", "deployment", wanted.deployment, f"--image=x:v{wanted.version}", here)
    pods = ("pod", f"--selector=app={wanted.deployment}", here)
    kubectl("wait", "--for=create", *pods, "--timeout=60s")
    pod = kubectl("get", *pods, "--output=name").strip()
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    kubectl("patch", pod, here, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
    kubectl("wait", "--for=condition=Available", f"deployment/{wanted.deployment}", here, "--timeout=60s")


def _make_storage_class(kubectl: Kubectl) -> None:
    made = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "example.org/local",
    }
    kubectl("apply", "--filename=-", stdin=json.dumps(made))
