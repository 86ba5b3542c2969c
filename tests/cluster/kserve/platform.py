"""The platform as a test handles it: kubectl, helm, and the addresses of its services."""

import base64
import io
import json
import secrets
import string
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx

from infra.cluster import images, manifests
from infra.images.catalogue import REGISTRY, find
from tests.chart import CHART, RELEASE, helm, values_file
from tests.cluster.kserve.trained import Trained

HERE = Path(__file__).parent
NAMESPACE = "vilam3-smoke"  # where ci/cpu-smoke-values.yaml looks for its store
PARTS = ("orchestrator", "vlm", "vista3d", "brats", "cxr")
ROLES = ("ops", "cpu", "storage-initializer")
TOOLS = ("versitygw",)
READY_S = 1800
POLL_S = 1.0
# What an installation consists of, or KServe makes of it.
KINDS = (
    "inferenceservice",
    "inferencegraph",
    "servingruntime",
    "deployment",
    "service",
    "pod",
    "networkpolicy",
    "role",
)
# Another version of the model, and new pods of the orchestrator too.
UPGRADE = {"vlm": {"model": "s3://vilam3/models/another"}, "orchestrator": {"resources": {"memory": "800Mi"}}}
STUDIES, WEIGHTS = "vilam3-studies", "vilam3"  # buckets


@dataclass(frozen=True, kw_only=True)
class Platform:
    """An installation in its namespace.

    Attributes:
        kubeconfig: Of the cluster's administrator.
        values: File on top of ci/cpu-smoke-values.yaml.
        caller_key: A caller's API key.
        internal_key: With which the parts call each other.
        store_key: Secret key of the object store.
    """

    kubeconfig: Path
    values: Path = HERE / "smoke.yaml"
    caller_key: str = field(default_factory=lambda: secrets.token_hex(16))
    internal_key: str = field(default_factory=lambda: secrets.token_hex(16))
    store_key: str = field(default_factory=lambda: secrets.token_hex(16))

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return what it says."""
        return manifests.kubectl(self.kubeconfig, [f"--namespace={NAMESPACE}", *arguments], stdin=stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        """Run helm in the namespace; the test fails with its words where it fails."""
        command = [str(helm()), f"--kubeconfig={self.kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
        ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def apply(self, changes: Mapping[str, Any] | None = None) -> None:
        """Install or upgrade with these values on top, and return when helm does."""
        given = [f"--values={values_file('cpu-smoke')}", f"--values={self.values}", "--values=-"]
        self.helm("upgrade", "--install", RELEASE, str(CHART), "--timeout=20m", *given, stdin=json.dumps(changes or {}))

    @contextmanager
    def surrounded(self, weights: Trained, *, another: Path) -> Iterator[None]:
        """Make what an installation finds in its namespace, and leave neither afterwards.

        Args:
            weights: What is served, from the store and from a claim, as smoke.yaml says.
            another: Another checkpoint in the store, to upgrade to.
        """
        self.kubectl("create", "namespace", NAMESPACE)
        try:
            self._apply_surroundings()
            self._fill_claim({"experts": weights.experts})
            self._fill_store({"models/tiny": weights.model, "models/another": another, "experts": weights.experts})
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        """Uninstall and delete the namespace; its pods first, since their long grace would keep it for as long."""
        self.helm("uninstall", RELEASE, "--ignore-not-found")
        self.await_gone("pod")
        self.kubectl("delete", "namespace", NAMESPACE, "--wait", "--timeout=900s")

    def _apply_surroundings(self) -> None:
        told = {
            "ACCESS_KEY": "smoke",
            "SECRET_KEY": self.store_key,
            "INTERNAL_KEY": self.internal_key,
            "CALLER_KEY": self.caller_key,
            "STORE_IMAGE": images.name("versitygw"),
            "OPS_IMAGE": find("ops").name(REGISTRY),
        }
        text = string.Template((HERE / "surroundings.yaml").read_text("utf-8")).substitute(told)
        self.kubectl("apply", "--filename=-", stdin=text)
        wait = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Available", wait, "deployment/s3")
        self.kubectl("wait", "--for=condition=Ready", wait, "pod/loader")

    def _fill_claim(self, folders: Mapping[str, Path]) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
            for name, folder in folders.items():
                archive.add(folder.resolve(), arcname=name)
        unpack = ["sh", "-c", "base64 --decode | tar --extract --no-same-owner --directory=/weights"]
        text = base64.b64encode(packed.getvalue()).decode("ascii")
        self.kubectl("exec", "-i", "loader", "--", *unpack, stdin=text)
        self.kubectl("delete", "pod", "loader", "--wait=true")

    @cached_property
    def store(self) -> Any:  # noqa: ANN401 - boto3 has no type for it
        """A client of the object store in the namespace."""
        url = f"http://{self.address('s3')}:7070"
        keys = {"aws_access_key_id": "smoke", "aws_secret_access_key": self.store_key}
        return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)

    def _fill_store(self, folders: Mapping[str, Path]) -> None:
        store = self.store
        for bucket in (STUDIES, WEIGHTS):
            store.create_bucket(Bucket=bucket)
        for name, folder in folders.items():
            for file in sorted(path for path in folder.resolve().rglob("*") if path.is_file()):
                store.upload_file(str(file), WEIGHTS, f"{name}/{file.relative_to(folder.resolve())}")

    def remove(self) -> None:
        """Uninstall, and return when nothing of the release is left."""
        self.helm("uninstall", RELEASE, "--wait", "--timeout=20m")
        self.await_gone(*KINDS)

    def await_ready(self) -> None:
        """Wait until every service and the graph are ready; KServe calls a graph ready before its pods are."""
        wait = f"--timeout={READY_S}s"
        self.kubectl("wait", "--for=condition=Ready", wait, "inferenceservice", "--all")
        self.kubectl("wait", "--for=condition=Ready", wait, "inferencegraph", "--all")
        for name in (f"{RELEASE}-graph", *(f"{RELEASE}-{part}-predictor" for part in PARTS)):
            self.kubectl("rollout", "status", wait, f"deployment/{name}")

    def address(self, service: str) -> str:
        """The virtual address of a service, which this machine reaches."""
        return self.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    @property
    def orchestrator(self) -> str:
        """Where a caller asks; another address after each installation."""
        return f"http://{self.address(f'{RELEASE}-orchestrator-predictor')}"

    @property
    def graph(self) -> str:
        """Where the graph's router listens."""
        return f"http://{self.address(f'{RELEASE}-graph')}"

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A caller with a key."""
        with httpx.Client(
            headers={"Authorization": f"Bearer {self.caller_key}"}, trust_env=False, timeout=600
        ) as caller:
            yield caller

    def pods(self, part: str) -> list[str]:
        """Names of the pods of a part that are not ending."""
        told = json.loads(self.kubectl("get", "pods", f"--selector=app.kubernetes.io/component={part}", "-o", "json"))
        return [pod["metadata"]["name"] for pod in told["items"] if "deletionTimestamp" not in pod["metadata"]]

    def await_gone(self, *kinds: str) -> None:
        """Wait until the namespace has nothing of the release of these kinds."""
        until = time.monotonic() + READY_S
        selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
        while left := self.kubectl("get", ",".join(kinds), selector, "-o", "name"):
            assert time.monotonic() < until, left
            time.sleep(POLL_S)
