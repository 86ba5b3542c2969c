"""The chart and the program say the same: versions, command lines, ports, names, folders, operators."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, get_args

import pytest
import yaml

from components.step import IMAGE
from pipelines.place import ENDPOINTS, INSTALLATION, STORE, STORE_ENDPOINT, TEMPLATE
from serving import engine_metrics, metrics
from serving.cli import _check
from tests.chart import (
    BUILD_TIMEOUT_S,
    CHART,
    NAMESPACE,
    RELEASE,
    ROOT,
    SCENARIOS,
    objects,
    of_kind,
    pods,
    render,
    run_helm,
    template,
    values_file,
)
from tests.contract.commands import exit_code
from vilam3 import platform
from vilam3.cli.main import build_parser
from vilam3.experts.denoise import Denoise
from vilam3.experts.fitting import fit_of, fittable
from vilam3.experts.registry import GROUP
from vilam3.experts.trigger import PUBLISHED_ORDER

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
TEMPLATE_LINES, NAMED_TEMPLATE_LINES, VALUES_LINES = 150, 120, 200
PORT = 8080
SERIES = {*metrics.NAMES, *engine_metrics.NAMES}
SOURCES = ("vilam3", "serving", "pipelines")
# Read by boto3, MLflow, OpenTelemetry, Ray, PostgreSQL and the operating system.
THEIRS = {
    "HOME", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION",
    "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    "OTEL_EXPORTER_OTLP_ENDPOINT", "NCCL_IB_SL", "NCCL_SOCKET_IFNAME",
    "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA",
}  # fmt: skip


@pytest.fixture(scope="module", params=SCENARIOS)
def rendered(request: pytest.FixtureRequest) -> str:
    return render(request.param)


def _containers(rendered: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of every pod: the object's kind and name, and the container."""
    for one in objects(rendered):
        for pod in pods(one):
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield f"{one['kind']}/{one['metadata']['name']}", container


def test_chart_program_and_images_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == PROJECT["version"]
    assert IMAGE.endswith(f":{PROJECT['version']}")


def test_the_linter_finds_nothing() -> None:
    for scenario in SCENARIOS:
        ran = run_helm(
            "lint", "--strict", "--quiet", str(CHART), f"--values={values_file(scenario)}", "--kube-version=1.34.0"
        )
        # Without a cluster there are no operators, which the checks refuse; everything else must be clean.
        told = [line for line in ran.stdout.splitlines() if line.startswith("[") and "this cluster has no" not in line]
        assert [line for line in told if "cannot be installed like this" not in line] == [], ran.stdout


def test_every_command_line_is_one_of_the_program(rendered: str) -> None:
    """The arguments of our containers and jobs parse by the real argparse tree."""
    found = list(command_lines(rendered))
    assert found
    for place, words in found:
        assert exit_code(words) == 0, f"{place}: vilam3 {' '.join(words)}"
        if words[0] == "serve":
            _check(build_parser().parse_args(words))  # what each role takes and needs


def command_lines(rendered: str) -> Iterator[tuple[str, list[str]]]:
    """Every `vilam3 ...` of a rendering, without the program's name."""
    runtimes = {name: one["spec"]["containers"][0]["args"] for name, one in of_kind(rendered, "ServingRuntime").items()}
    for one in of_kind(rendered, "InferenceService").values():
        model = one["spec"]["predictor"].get("model")
        if model:  # KServe appends the service's arguments to the runtime's
            yield f"InferenceService/{one['metadata']['name']}", [*runtimes[model["runtime"]], *model.get("args", [])]
    for place, container in _containers(rendered):
        if place.startswith("ServingRuntime"):
            continue
        if "command" not in container and container.get("args"):
            yield place, container["args"]
    for one in of_kind(rendered, "RayJob").values():
        program, *words = one["spec"]["entrypoint"].split()
        assert program == "vilam3"
        yield f"RayJob/{one['metadata']['name']}", words


def test_every_container_is_confined(rendered: str) -> None:
    """No root, no writing but to volumes, no capabilities; what it may use is bounded."""
    for place, container in _containers(rendered):
        if place.startswith("TrainingRuntime"):  # its job adds it, see test_chart_trainjob.py
            continue
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, place
        if not place.startswith("ServingRuntime"):  # an InferenceService adds it
            assert container["resources"]["limits"]["memory"], place
    for one in objects(rendered):
        for pod in pods(one):
            if one["kind"] not in {"ServingRuntime", "TrainingRuntime"}:
                assert pod["securityContext"]["runAsNonRoot"] is True, one["metadata"]["name"]


def test_secrets_are_referred_to_and_never_held(rendered: str) -> None:
    assert of_kind(rendered, "Secret") == {}
    for place, container in _containers(rendered):
        for variable in container.get("env", []):
            if re.search("PASSWORD|SECRET|ACCESS_KEY", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], f"{place}: {variable['name']}"


def test_every_object_says_whose_it_is(rendered: str) -> None:
    for one in objects(rendered):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE, one["metadata"]["name"]
        assert labels["app.kubernetes.io/version"] == PROJECT["version"]


def test_nothing_in_the_cluster_is_reached_that_no_policy_opens(rendered: str) -> None:
    """All pods of the release are closed, and each policy says what patient data it lets through."""
    policies = of_kind(rendered, "NetworkPolicy")
    closed = policies[f"{RELEASE}-deny"]["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for name, one in policies.items():
        said = one["metadata"]["annotations"]["vilam3/patient-data"]
        assert said.startswith(("none: ", "PHI: ")), name


def test_environment_variables_are_read_by_somebody(rendered: str) -> None:
    """A name of ours is one in the program; the others are those of libraries and images."""
    program = "\n".join(path.read_text("utf-8") for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    for place, container in _containers(rendered):
        for variable in container.get("env", []):
            name = variable["name"]
            assert name in THEIRS or f'"{name}"' in program, f"{place}: {name}"


def test_metrics_are_those_of_the_program(rendered: str) -> None:
    """Queries of triggers, alerts and dashboards name series that the endpoint has."""
    named = set(re.findall(r"\bvilam3_[a-z_]+", rendered)) & set(re.findall(r"\bvilam3_[a-z_]+(?=[{)])", rendered))
    assert {name.removesuffix("_bucket") for name in named} <= SERIES
    for outcome in re.findall(r'outcome="(\w+)"', rendered):
        assert outcome in get_args(metrics.Outcome)
    for full in re.findall(r'full="(\w+)"', rendered):
        assert full in get_args(metrics.Refusal)


def test_every_metric_of_the_program_is_shown() -> None:
    """A number that nobody looks at is not measured."""
    shown = (CHART / "files" / "dashboard.json").read_text("utf-8")
    assert [name for name in sorted(SERIES) if not re.search(rf"\b{name}(_bucket)?\b", shown)] == []


def test_parts_that_are_counted_are_named_as_the_program_names_them() -> None:
    names = set(re.findall(r'vilam3_queue_depth\{[^}]*expert="(\w+)"', render("gpu")))
    assert names == {metrics.VLM, *PUBLISHED_ORDER}  # this scenario runs the published experts


def test_all_serving_listens_on_the_port_of_the_policies(rendered: str) -> None:
    for place, words in command_lines(rendered):
        if words[0] == "serve":
            assert words[words.index("--port") + 1] == str(PORT), place


def test_the_installation_tells_pipelines_what_they_ask_for(rendered: str) -> None:
    """Compiled steps ask a ConfigMap of a fixed name for the endpoints of the installation."""
    found = of_kind(rendered, "ConfigMap").get(INSTALLATION)
    if found is None:
        assert not any("pipelines" in name for name in of_kind(rendered, "ConfigMap"))
    else:
        always, told = {*ENDPOINTS, "aws_default_region"}, set(found["data"])
        assert always <= told <= {*always, *STORE, *STORE_ENDPOINT}
        if TEMPLATE in of_kind(rendered, "ConfigMap"):  # a job leaves its state nowhere else
            assert {*STORE} <= told
        assert found["metadata"]["namespace"] == DEFAULTS["pipelines"]["namespace"]


def test_pipelines_run_in_the_images_of_the_installation() -> None:
    for scenario in ("gpu", "everything"):
        rendered = render(scenario)
        assert IMAGE not in rendered
        for one in of_kind(rendered, "PipelineVersion").values():
            assert one["spec"]["platformSpec"]["platforms"]["kubernetes"]


def test_an_expert_gets_the_weights_of_those_it_needs() -> None:
    """DENOISE restores by its own weights and segments by VISTA3D's; its registry looks for both in one directory."""
    changes: dict[str, Any] = {"experts": {"denoise": {"enabled": True, "model": "s3://vilam3/experts/denoise"}}}
    predictor = of_kind(render("gpu", changes=changes), "InferenceService")[f"{RELEASE}-denoise"]["spec"]["predictor"]
    assert predictor["storageUris"] == [
        {"uri": "s3://vilam3/experts/denoise", "mountPath": "/mnt/models/denoise"},
        {"uri": "s3://vilam3/experts/vista3d", "mountPath": "/mnt/models/vista3d"},
    ]
    assert [name.upper() for name in DEFAULTS["experts"]["denoise"]["needs"]] == list(Denoise.needs)
    changes["experts"]["vista3d"] = {"enabled": False}
    assert "experts.denoise.needs: vista3d is not enabled" in template("gpu", changes=changes).stderr


def test_the_model_of_a_graph_is_told_where_added_experts_are() -> None:
    changes = {"experts": {"denoise": {"enabled": True, "model": "s3://vilam3/experts/denoise"}}}
    words = dict(command_lines(render("gpu", changes=changes)))
    host = f"{RELEASE}-denoise-predictor.{NAMESPACE}.svc"
    assert f"DENOISE=http://{host}" in words[f"InferenceService/{RELEASE}-vlm"]
    without = dict(command_lines(render("gpu", changes={"serving": {"graph": False}})))
    assert "--expert-url" not in without[f"InferenceService/{RELEASE}-vlm"]


def test_a_version_of_a_pipeline_is_named_by_its_content() -> None:
    """The same content keeps its name, so that KFP sees nothing new; another image gives another."""
    before = set(of_kind(render("gpu"), "PipelineVersion"))
    same = set(of_kind(render("gpu", changes={"serving": {"rounds": 2}}), "PipelineVersion"))
    other = set(of_kind(render("gpu", changes={"image": {"tag": "0.1.0-hotfix"}}), "PipelineVersion"))
    assert before == same
    assert not before & other


def test_the_chart_knows_the_experts_of_the_registry() -> None:
    experts = DEFAULTS["experts"]
    assert {name.upper() for name in experts} == {point.name for point in entry_points(group=GROUP)}
    assert {name: one["bundle"] for name, one in experts.items()} == {name: fit_of(name).folder for name in fittable()}
    assert {name for name, one in experts.items() if one["enabled"]} == {name.lower() for name in PUBLISHED_ORDER}


def test_ray_is_the_version_of_the_image(rendered: str) -> None:
    pin = next(one for one in PROJECT["optional-dependencies"]["train"] if one.startswith("ray["))
    clusters = [
        one["spec"].get("rayClusterConfig") or one["spec"].get("rayClusterSpec") or one["spec"]
        for one in objects(rendered)
        if one["apiVersion"] == "ray.io/v1"
    ]
    assert {one["rayVersion"] for one in clusters} <= {pin.partition("==")[2]}


def test_kinds_are_of_the_operators_of_the_platform(rendered: str) -> None:
    """Every kind beyond Kubernetes' own is one that `vilam3 doctor --cluster` looks for."""
    known = {kind for one in platform.load().operators for kind in one.kinds}
    foreign = {
        f"{one['apiVersion']}/{one['kind']}" for one in objects(rendered) if "." in one["apiVersion"].partition("/")[0]
    }
    assert {kind for kind in foreign if not re.match(r"[a-z.]*k8s\.io/", kind)} <= known


def test_the_platform_is_what_the_local_cluster_builds() -> None:
    """Where infra/tools builds an operator, it is the version that the platform names."""
    pins = "\n".join(path.read_text("utf-8") for path in (ROOT / "infra" / "tools").glob("*/go.mod"))
    modules = {"kserve": "github.com/kserve/kserve", "kuberay": "github.com/ray-project/kuberay/ray-operator"}
    for name, module in modules.items():
        assert f"{module} v{platform.load().operator(name).version} " in pins, name


def test_the_wheel_carries_the_platform() -> None:
    """An image has no infra/, and the check before an installation runs in one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {f"infra/platform/{platform.FILE}": f"vilam3/{platform.FILE}"}


def test_the_lowest_kubernetes_is_told_once() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["kubeVersion"] == f">={platform.load().kubernetes}.0-0"


def test_the_preflight_asks_for_what_the_values_name() -> None:
    rendered = render("everything")
    words = next(words for place, words in command_lines(rendered) if place == f"Job/{RELEASE}-preflight")
    assert words[:4] == ["doctor", "--cluster", "--namespace", NAMESPACE]
    needs = [words[index + 1] for index, word in enumerate(words) if word == "--need"]
    assert set(needs) == {"kserve", "kuberay", "keda", "kfp", "kueue"}
    for name in needs:
        platform.load().operator(name)
    secrets = {words[index + 1].partition(":")[0] for index, word in enumerate(words) if word == "--secret"}
    assert secrets == set(_secrets_referred_to(rendered))
    readable = of_kind(rendered, "Role")[f"{RELEASE}-preflight"]["rules"][0]["resourceNames"]
    assert set(readable) == secrets


def _secrets_referred_to(rendered: str) -> Iterator[str]:
    text = json.dumps(objects(rendered))
    yield from re.findall(r'"secretKeyRef": \{"name": "([^"]+)"', text)
    yield from re.findall(r'"secretName": "([^"]+)"', text)
    for one in objects(rendered):
        for pod in pods(one):
            yield from (secret["name"] for secret in pod.get("imagePullSecrets", []))


def test_templates_are_short() -> None:
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            lines = len(path.read_text("utf-8").splitlines())
            assert lines <= (NAMED_TEMPLATE_LINES if path.suffix == ".tpl" else TEMPLATE_LINES), f"{path}: {lines}"
    assert len((CHART / "values.yaml").read_text("utf-8").splitlines()) <= VALUES_LINES


def test_a_file_holds_one_kind() -> None:
    for path in sorted((CHART / "templates").rglob("*.yaml")):
        kinds = set(re.findall(r"^kind: (\w+)", path.read_text("utf-8"), re.MULTILINE))
        assert len(kinds) <= 1, f"{path}: {kinds}"


def test_names_come_from_the_named_templates() -> None:
    """No template spells the name of an object, but for those that compiled pipelines know."""
    spelled: dict[str, list[str]] = {}
    for path in sorted((CHART / "templates").rglob("*.yaml")):
        names = re.findall(r"^  name: (?!\{\{)(\S+)", path.read_text("utf-8"), re.MULTILINE)
        if names:
            spelled[path.name] = names
    assert spelled == {
        "installation-configmap.yaml": [INSTALLATION],
        "pipelines.yaml": ["vilam3-{{"],
        "pipelineversions.yaml": ["vilam3-{{"],
        "template-configmap.yaml": [TEMPLATE],
    }


def test_a_dashboard_is_json() -> None:
    board = json.loads((CHART / "files" / "dashboard.json").read_text("utf-8"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_alert_has_its_runbook() -> None:
    rules = of_kind(render("gpu"), "PrometheusRule")[f"{RELEASE}-serving"]["spec"]["groups"][0]["rules"]
    assert rules
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text("utf-8")
    for rule in rules:
        page = ROOT / rule["annotations"]["runbook"]
        assert page.is_file(), rule["alert"]
        assert rule["alert"] in page.read_text("utf-8"), rule["alert"]
        assert page.name in index
