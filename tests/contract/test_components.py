"""What KFP is given holds: bodies that stand alone and call the library as it is, pinned images, no secrets."""

import ast
import builtins
import importlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.dsl.base_component import BaseComponent

import components
from components.step import IMAGE
from pipelines.place import NUM_RETRIES, WINDOW, Place
from pipelines.retrain import retrain
from pipelines.submit import check_arguments, write_yaml
from tests.chart import CHART
from tests.golden.pipelines import compiled
from vilam3 import __version__, steps
from vilam3.cli.launch import TEMPLATE
from vilam3.errors import UserError
from vilam3.recipe import load, parse_resolved

FOLDER = Path(components.__path__[0])
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in {"__init__", "step"})
MOST_LINES = 8
BY_JOBS = ("finetune-by-jobs.yaml", "retrain-by-jobs.yaml")
MOST_PARAMETERS = 12
DIGEST = "registry.example/vilam3-gpu@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Every compiled pipeline: its specification, then what is for Kubernetes."""
    folder = tmp_path_factory.mktemp("compiled")
    for name, pipeline in compiled.pipelines().items():
        write_yaml(pipeline, folder / name)
    return {path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) for path in folder.iterdir()}


def _component(module: str) -> BaseComponent:
    found: BaseComponent = getattr(importlib.import_module(f"components.{module}"), module)
    return found


def _function(module: str) -> ast.FunctionDef:
    source = textwrap.dedent(inspect.getsource(_component(module).python_func))
    found = ast.parse(source).body[0]
    assert isinstance(found, ast.FunctionDef)
    return found


def _body(module: str) -> list[ast.stmt]:
    """Without docstring and imports."""
    return [one for one in _function(module).body[1:] if not isinstance(one, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("module", MODULES)
def test_a_body_stands_alone(module: str) -> None:
    """KFP ships the function's text without its module: every name must come from within."""
    function = _function(module)
    known = set(dir(builtins)) | {argument.arg for argument in function.args.args}
    for node in ast.walk(ast.Module(body=function.body, type_ignores=[])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    used = {node.id for one in function.body for node in ast.walk(one) if isinstance(node, ast.Name)}
    assert used <= known


@pytest.mark.parametrize("module", MODULES)
def test_a_body_is_thin(module: str) -> None:
    assert len(_body(module)) <= MOST_LINES
    assert not [
        node for one in _body(module) for node in ast.walk(one) if isinstance(node, ast.If | ast.While | ast.Try)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_a_body_calls_the_library_as_it_is(module: str) -> None:
    """A renamed function or parameter of `vilam3.steps` fails here, and in mypy."""
    calls = list(_library_calls(module))
    assert calls
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        signature = inspect.signature(getattr(steps, call.func.attr))
        signature.bind(*call.args, **{keyword.arg or "": None for keyword in call.keywords})


def _library_calls(module: str) -> Iterator[ast.Call]:
    for one in _body(module):
        for node in ast.walk(one):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "steps":
                    yield node


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_text_or_counts(module: str) -> None:
    """KFP hands integers within lists and dictionaries over as floats; text arrives as it left."""
    spec = _component(module).component_spec
    parameters = {name: one.type for name, one in spec.inputs.items() if not one.type.startswith("system.")}
    returned = {name: one.type for name, one in (spec.outputs or {}).items() if not one.type.startswith("system.")}
    assert set(parameters.values()) <= {"String", "NUMBER_INTEGER", "Integer"}
    assert set(returned.values()) <= {"String"}


def test_integers_of_a_recipe_survive_the_journey(specs: Mapping[str, list[Any]]) -> None:
    """The recipe travels as one text, so a count stays a count."""
    recipe = load([compiled.HERE / "recipe.toml"])
    default = specs["finetune.yaml"][0]["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert parse_resolved(default) == recipe
    assert isinstance(json.loads(default)["stages"]["stage4_expert"]["steps"], int)


def test_images_are_pinned_and_nothing_is_installed(specs: Mapping[str, list[Any]]) -> None:
    assert IMAGE.endswith(f"/vilam3-gpu:{__version__}")
    for container in _containers(specs):
        assert container["image"] == IMAGE
        assert "pip install" not in " ".join(container["command"])


def test_an_image_given_by_digest_is_every_steps_image(tmp_path: Path) -> None:
    recipe = load([compiled.HERE / "recipe.toml"])
    write_yaml(retrain(recipe, place=Place(resources=recipe.resources, image=DIGEST)), tmp_path / "p.yaml")
    (spec, *_) = yaml.safe_load_all((tmp_path / "p.yaml").read_text(encoding="utf-8"))
    assert {container["image"] for container in _containers({"p": [spec]})} == {DIGEST}


def test_no_secret_is_in_an_environment(specs: Mapping[str, list[Any]]) -> None:
    for container in _containers(specs):
        assert [one["name"] for one in container.get("env", [])] == ["VILAM3_RUNS"]
    for name, documents in specs.items():
        kept = {key for executor in _executors({name: documents}) for key in executor if "secret" in key.lower()}
        assert kept == ({"secretAsEnv"} if name != "finetune.yaml" else set())  # by reference


@pytest.mark.parametrize("name", BY_JOBS)
def test_a_step_that_launches_holds_nothing(name: str, specs: Mapping[str, list[Any]]) -> None:
    """No accelerator, no node of its own, and no artifact, since KFP would bring each to its pod."""
    spec, platform = specs[name]
    executors = spec["deploymentSpec"]["executors"]
    launching = {key: one["container"] for key, one in executors.items() if key.startswith("exec-launch-stage")}
    stages = load([compiled.HERE / "recipe.toml"]).stage_names
    assert len(launching) == (len(stages) if name.startswith("finetune") else 1)
    for key, container in launching.items():
        assert container["resources"]["resourceCpuRequest"] == "100m"
        assert "accelerator" not in container["resources"]
        placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][key]
        assert not {"nodeSelector", "tolerations"} & set(placed)
        assert placed["fieldPathAsEnv"] == [{"fieldPath": "metadata.name", "name": "VILAM3_POD"}]
        (mounted,) = placed["configMapAsVolume"]
        assert (mounted["configMapName"], mounted["mountPath"]) == ("vilam3-job", str(TEMPLATE.parent))
        component = spec["components"][key.replace("exec-", "comp-")]
        assert "artifacts" not in component["inputDefinitions"]


@pytest.mark.parametrize("name", BY_JOBS)
def test_no_output_is_made_within_control_flow(name: str, specs: Mapping[str, list[Any]]) -> None:
    """KFP refuses to hand one on, and its local runner cannot choose among artifacts."""
    spec = specs[name][0]
    assert not [key for key, component in spec["components"].items() if "dag" in component]
    tasks = spec["root"]["dag"]["tasks"]
    assert not [key for key, task in tasks.items() if "triggerPolicy" in task or "parameterIterator" in task]
    for output in spec["root"]["dag"]["outputs"].get("artifacts", {}).values():
        assert {one["producerSubtask"] for one in output["artifactSelectors"]} <= set(tasks)


def test_the_window_of_retries_leaves_days_for_a_queue() -> None:
    """KFP counts it from the first attempt, the queue included, and every attempt may take all of its deadlines."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["training"]
    deadlines_s = values["startingSeconds"] + values["stalledSeconds"] + values["unwatchedSeconds"]
    assert float(WINDOW.removesuffix("s")) - (NUM_RETRIES + 1) * deadlines_s >= 6 * 86400


def test_steps_that_compute_get_the_recipes_resources(specs: Mapping[str, list[Any]]) -> None:
    spec, platform = specs["finetune.yaml"]
    executors = spec["deploymentSpec"]["executors"]
    asked = executors["exec-train-stage"]["container"]["resources"]
    assert asked["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert asked["accelerator"]["resourceCount"] == "{{$.inputs.parameters['pipelinechannel--gpus']}}"
    assert spec["root"]["inputDefinitions"]["parameters"]["gpus"]["defaultValue"] == 2
    fitted = executors["exec-fit-experts"]["container"]["resources"]
    assert fitted["accelerator"]["resourceCount"] == "2"
    assert asked["resourceMemoryLimit"] == "128Gi"
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-stage"]
    assert placed["tolerations"] == [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]
    assert placed["nodeSelector"]["labels"] == {"accelerator": "h100"}
    assert {"medium": "Memory", "mountPath": "/dev/shm", "volumeName": "shm"} in placed["emptyDirMounts"]  # noqa: S108 - the name of shared memory
    assert "accelerator" not in executors["exec-prepare"]["container"]["resources"]


def test_a_step_is_tried_again_for_a_week(specs: Mapping[str, list[Any]]) -> None:
    """The window counts from the first attempt, queueing included; KFP's default of an hour would end a long wait."""
    for name, documents in specs.items():
        for task, spec in documents[0]["root"]["dag"]["tasks"].items():
            if not task.startswith("importer"):
                assert spec["retryPolicy"]["backoffMaxDuration"] == "604800s", (name, task)


def test_what_a_cache_key_cannot_know_always_runs(specs: Mapping[str, list[Any]]) -> None:
    """The registry, and what lies behind the places given."""
    for file, documents in specs.items():
        looks = set() if file == "finetune.yaml" else {"resolve"}
        tasks = documents[0]["root"]["dag"]["tasks"]
        always = {name for name, task in tasks.items() if not task.get("cachingOptions", {}).get("enableCache")}
        assert {name for name in always if not name.startswith("importer")} == {"release"} | looks


def test_steps_that_use_what_was_given_know_its_contents(specs: Mapping[str, list[Any]]) -> None:
    """KFP's cache key has the name of an artifact and not what is in it."""
    for name, documents in specs.items():
        tasks = documents[0]["root"]["dag"]["tasks"]
        users = [key for key in tasks if key.startswith(("train-stage", "launch-stage", "evaluate"))]
        assert len(users) >= 2, name
        for key in users:
            told = tasks[key]["inputs"]["parameters"]["contents"]["taskOutputParameter"]
            assert told == {"outputParameterKey": "contents", "producerTask": "resolve"}


def test_a_person_sees_few_parameters_and_each_is_explained(specs: Mapping[str, list[Any]]) -> None:
    for name, documents in specs.items():
        parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
        assert len(parameters) <= MOST_PARAMETERS
        assert [key for key, one in parameters.items() if not one.get("description")] == [], name
        assert documents[0]["pipelineInfo"]["description"]


def test_arguments_are_those_that_have_an_effect() -> None:
    recipe = load([compiled.HERE / "recipe.toml"])
    pipeline = retrain(recipe, place=Place())
    given = {"base_checkpoint": "s3://bucket/model", "corpus": "corpus", "experts": "/experts"}
    found = check_arguments(pipeline, given)
    assert found == {
        "base_checkpoint": "s3://bucket/model",
        "corpus": str(Path("corpus").absolute()),
        "experts": "/experts",
    }
    assert check_arguments(pipeline, given | {"gpus": "4"}, texts=["gpus"])["gpus"] == 4
    with pytest.raises(UserError, match="--gpus=many: not a whole number"):
        check_arguments(pipeline, given | {"gpus": "many"}, texts=["gpus"])
    with pytest.raises(UserError, match="--corpus is required"):
        check_arguments(pipeline, given | {"corpus": None})
    with pytest.raises(UserError, match="--corpus has no effect"):
        check_arguments(compiled.pipelines()["finetune.yaml"], {"corpus": "corpus"})


def _containers(specs: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for documents in specs.values():
        for executor in documents[0]["deploymentSpec"]["executors"].values():
            if "container" in executor:
                yield executor["container"]


def _executors(specs: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for documents in specs.values():
        yield from documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
