"""What launches jobs on the real API server: a store, the rights of a pipeline's step, and the program itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from infra.cluster import manifests
from tests.chart import objects, of_kind, render
from tests.cluster.api.conftest import PIPELINES, Kubectl
from tests.cluster.api.launching.bench import ACCOUNT, BUCKET, SHORT_S, Bench, launches
from tests.cluster.api.launching.operators import OPERATORS, Operator
from tests.e2e.s3_server import S3, s3_server
from vilam3.launch.job import STALLED, STARTING


@pytest.fixture(scope="package")
def training_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real store with a bucket, which this process uses too."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment().items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(scope="package", params=OPERATORS)
def operator(request: pytest.FixtureRequest) -> Operator:
    """Every test here is of every kind of job."""
    return OPERATORS[request.param]


@pytest.fixture(scope="package")
def launching_chart(operator: Operator) -> str:
    """A chart whose stages are trained by jobs."""
    return render("everything", changes=launches(operator.launcher))


@pytest.fixture(scope="package")
def steps_account(kubeconfig: Path, launching_chart: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig with the token of the steps' account, which has the chart's rights and no other."""

    def kubectl(*arguments: str, stdin: str = "") -> str:
        return manifests.kubectl(kubeconfig, arguments, stdin=stdin)

    rights = [one for one in objects(launching_chart) if one["metadata"]["name"] == "vilam3-launcher"]
    assert [one["kind"] for one in rights] == ["Role", "RoleBinding"]
    kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={PIPELINES}")
    kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(rights))
    token = kubectl("create", "token", ACCOUNT, f"--namespace={PIPELINES}", "--duration=2h").strip()
    told = yaml.safe_load(kubeconfig.read_text("utf-8"))
    told["users"][0]["user"] = {"token": token}
    file = tmp_path_factory.mktemp("account") / "kubeconfig"
    file.write_text(yaml.safe_dump(told), "utf-8")
    yield file
    kubectl("delete", "serviceaccount", ACCOUNT, f"--namespace={PIPELINES}")
    kubectl("delete", "--filename=-", stdin=yaml.safe_dump_all(rights))


@pytest.fixture
def bench(
    operator: Operator,
    kubectl: Kubectl,
    steps_account: Path,
    launching_chart: str,
    training_store: S3,
    tmp_path: Path,
) -> Iterator[Bench]:
    """Launchers with short deadlines, and nothing left afterwards."""
    told = json.loads(of_kind(launching_chart, "ConfigMap")["vilam3-job"]["data"]["job.json"])
    told["metadata"]["annotations"] |= {STARTING: str(SHORT_S), STALLED: str(SHORT_S)}
    template = tmp_path / "job.json"
    template.write_text(json.dumps(told), "utf-8")
    made = Bench(
        operator=operator,
        kubectl=kubectl,
        account=steps_account,
        template=template,
        s3=training_store,
        folder=tmp_path,
    )
    yield made
    made.clear()
