"""What the local cluster keeps things in: PostgreSQL, the object store, and MLflow on both."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infra.cluster import images
from infra.images import buildah
from infra.images.container import Container, Network, run, running
from tests.cluster.images.conftest import built, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
READY_S = 600
DATA = "/var/lib/postgresql/data"
DATABASE = {"POSTGRES_USER": "mlflow", "POSTGRES_DB": "mlflow", "POSTGRES_PASSWORD": "of a test's own"}
URI = "postgresql://mlflow:of%20a%20test%27s%20own@127.0.0.1:5432/mlflow"
KEYS = {"AWS_ACCESS_KEY_ID": "trial", "AWS_SECRET_ACCESS_KEY": "of-this-test", "AWS_DEFAULT_REGION": "us-east-1"}
S3 = "http://127.0.0.1:7070"
TRACKING = "http://127.0.0.1:5000"
MAKE_BUCKET = f"""
import boto3
boto3.client("s3", endpoint_url="{S3}").create_bucket(Bucket="mlflow")
"""
LOG_A_RUN = """
import json, pathlib, mlflow
mlflow.set_experiment("trial")
with mlflow.start_run() as run:
    mlflow.log_param("stage", "align")
    mlflow.log_metric("loss", 0.25)
    pathlib.Path("/tmp/card.txt").write_text("a card")
    mlflow.log_artifact("/tmp/card.txt")
kept = mlflow.get_run(run.info.run_id)
text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/card.txt")
print(json.dumps({"stage": kept.data.params["stage"], "loss": kept.data.metrics["loss"], "card": text}))
"""
LIST_OBJECTS = f"""
import boto3, json
listed = boto3.client("s3", endpoint_url="{S3}").list_objects_v2(Bucket="mlflow")
print(json.dumps([entry["Key"] for entry in listed["Contents"]]))
"""
REFUSED = f"""
import boto3, botocore.exceptions, json
try:
    keys = {{"aws_access_key_id": "trial", "aws_secret_access_key": "wrong"}}
    boto3.client("s3", endpoint_url="{S3}", **keys).list_buckets()
except botocore.exceptions.ClientError as error:
    print(json.dumps(error.response["Error"]["Code"]))
"""


def _owned(folder: Path, *, user: int) -> Path:
    folder.mkdir()
    folder.chmod(0o770)
    subprocess.run(["chown", f"{user}:{user}", str(folder)], check=True)  # noqa: S603, S607 - our own words
    return folder


@contextmanager
def _postgresql(folder: Path, *, inside: Network, log: Path) -> Iterator[Container]:
    container = Container(
        image=built("postgresql"),
        environment=DATABASE,
        folders={DATA: folder},
        scratch=("/tmp", "/var/run/postgresql"),  # noqa: S108 - of the container
    )
    with running(container, inside=inside, log=log) as server:
        wait_for(5432, inside=inside, server=server, log=log)
        yield container


@contextmanager
def _object_store(folder: Path, *, inside: Network, log: Path) -> Iterator[None]:
    name = images.name("versitygw")
    archive = images.program("versitygw", say=lambda _: None)
    if not buildah.has(name):
        subprocess.run(["buildah", "pull", "--quiet", f"oci-archive:{archive}:{name}"], check=True)  # noqa: S603, S607 - our own words
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    container = Container(
        image=name, arguments=["posix", "/data"], environment=keys, folders={"/data": folder}, scratch=()
    )
    with running(container, inside=inside, log=log) as server:
        wait_for(7070, inside=inside, server=server, log=log)
        yield


@contextmanager
def _mlflow(*, inside: Network, log: Path) -> Iterator[None]:
    environment = {
        **KEYS,
        "MLFLOW_BACKEND_STORE_URI": URI,
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/artifacts",
        "MLFLOW_S3_ENDPOINT_URL": S3,
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:5000",
    }
    words = ["server", "--host", "127.0.0.1", "--port", "5000", "--workers", "1", "--serve-artifacts"]
    container = Container(image=built("ops"), entrypoint=["mlflow"], arguments=words, environment=environment)
    with running(container, inside=inside, log=log) as server:
        wait_for(5000, inside=inside, server=server, log=log, path="/health")
        yield


def _client(code: str, *, inside: Network) -> str:
    environment = {**KEYS, "MLFLOW_TRACKING_URI": TRACKING}
    container = Container(image=built("ops"), entrypoint=["python", "-c"], arguments=[code], environment=environment)
    ran = run(container, inside=inside, timeout_s=READY_S)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1] if ran.stdout else ""


def _query(statement: str, container: Container, *, inside: Network) -> str:
    words = ["--host=127.0.0.1", "--username=mlflow", "--no-align", "--tuples-only", f"--command={statement}"]
    client = Container(
        image=container.image,
        entrypoint=["psql"],
        arguments=words,
        environment={"PGPASSWORD": DATABASE["POSTGRES_PASSWORD"]},
    )
    ran = run(client, inside=inside, timeout_s=READY_S)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_postgresql_keeps_what_it_was_given_when_it_is_stopped(inside: Network, tmp_path: Path) -> None:
    folder = _owned(tmp_path / "data", user=10001)
    log = tmp_path / "log"
    with _postgresql(folder, inside=inside, log=log) as database:
        _query("CREATE TABLE kept AS SELECT 42 AS value", database, inside=inside)
    with _postgresql(folder, inside=inside, log=log) as database:
        assert _query("SELECT value FROM kept", database, inside=inside) == "42"


def test_postgresql_wants_a_password_for_a_new_database(inside: Network) -> None:
    container = Container(image=built("postgresql"), scratch=(DATA, "/tmp", "/var/run/postgresql"))  # noqa: S108 - of the container
    ran = run(container, inside=inside, timeout_s=READY_S)
    assert ran.returncode != 0
    assert "needs POSTGRES_PASSWORD" in ran.stderr


def test_mlflow_keeps_runs_in_postgresql_and_files_in_the_object_store(inside: Network, tmp_path: Path) -> None:
    with ExitStack() as stack:
        database = _owned(tmp_path / "database", user=10001)
        objects = _owned(tmp_path / "objects", user=65532)
        stack.enter_context(_postgresql(database, inside=inside, log=tmp_path / "postgresql.log"))
        stack.enter_context(_object_store(objects, inside=inside, log=tmp_path / "versitygw.log"))
        _client(MAKE_BUCKET, inside=inside)
        assert json.loads(_client(REFUSED, inside=inside)) == "SignatureDoesNotMatch"
        stack.enter_context(_mlflow(inside=inside, log=tmp_path / "mlflow.log"))
        assert json.loads(_client(LOG_A_RUN, inside=inside)) == {"stage": "align", "loss": 0.25, "card": "a card"}
        (key,) = json.loads(_client(LIST_OBJECTS, inside=inside))
        assert (key.partition("/")[0], key.rpartition("/")[2]) == ("artifacts", "card.txt")
