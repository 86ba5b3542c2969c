"""Rules of a manifest: only the run's own facts, one name for one thing, nothing that fails after a queue."""

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from vilam3.cli.main import build_parser
from vilam3.errors import CheckpointError, RecipeError, UserError
from vilam3.launch.back_end import RECIPE_VARIABLE
from vilam3.launch.job import NEWS, PER_POD, STALLED, STARTING, UNWATCHED, Request, Template, render
from vilam3.recipe import load, parse_resolved

RECIPES = Path(__file__).parents[3] / "pipelines" / "recipes"
TINY = load([RECIPES / "tiny.toml"])
NAME_CHARACTERS = 47  # KubeRay's limit for a RayJob; JobSet, which adds 15 to a TrainJob's, takes 48


def _template() -> dict[str, Any]:
    pod = {"template": {"spec": {"containers": [{"name": "ray", "env": [{"name": "HOME", "value": "/tmp"}]}]}}}  # noqa: S108 - as the chart has it
    annotations = {PER_POD: "4", STARTING: "60", STALLED: "30", UNWATCHED: "90"}
    cluster = {"headGroupSpec": copy.deepcopy(pod), "workerGroupSpecs": [{"groupName": "trainers", **pod}]}
    return {"kind": "RayJob", "metadata": {"annotations": annotations}, "spec": {"rayClusterSpec": cluster}}


@pytest.fixture
def template(tmp_path: Path) -> Template:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(_template()), "utf-8")
    return Template.read(file)


def _request(**changes: Any) -> Request:  # noqa: ANN401 - fields of a request
    given = {"stage": "stage1_align", "corpus": "s3://b/c d's", "base": "", "checkpoints": "s3://b/k/", "run_id": "1"}
    return Request(**{"recipe": TINY, **given, **changes})


def test_a_job_is_named_for_run_stage_and_recipe() -> None:
    one = _request()
    assert one.name == _request(corpus="s3://b/other", workers=4).name
    assert one.digest != _request(corpus="s3://b/other").digest
    other = TINY.model_copy(update={"seed": 5})
    stages = {_request(stage=name, base="s3://b/base").name for name in TINY.stage_names}
    assert len({one.name, _request(run_id="2").name, _request(recipe=other).name} | stages) == 6
    assert max(map(len, stages)) <= NAME_CHARACTERS


def test_the_command_is_one_that_the_program_takes(template: Template) -> None:
    """Whatever is in the places and in the recipe, the shell of the head hands it on as it is."""
    awkward = TINY.tracking.model_copy(update={"experiment": 'it\'s $(HOME) "$HOME"'})
    request = _request(workers=8, strategy="zero2", recipe=TINY.model_copy(update={"tracking": awkward}))
    manifest = render(request, template=template, mark="x")
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    recipe = {one["name"]: one["value"] for one in head["env"]}[RECIPE_VARIABLE].replace("$$(", "$(")
    words = [recipe if word == f"${RECIPE_VARIABLE}" else word for word in shlex.split(manifest["spec"]["entrypoint"])]
    program, *rest = words
    assert program == "vilam3"
    told = build_parser().parse_args(rest)
    assert parse_resolved(told.resolved_recipe) == request.recipe
    assert (told.corpus, told.workers, told.strategy, told.launcher) == ("s3://b/c d's", 8, "zero2", "ray")
    assert told.news == manifest["metadata"]["annotations"][NEWS] == f"s3://b/k/launched/{request.name}-x.json"
    assert told.unwatched_s == 90


def test_the_template_is_left_as_it_is_and_workers_are_counted_in_pods(template: Template) -> None:
    before = copy.deepcopy(template.manifest)
    owner = {"kind": "Workflow", "name": "w"}
    manifest = render(_request(workers=8), template=template, owner=owner)
    assert template.manifest == before
    group = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert manifest["metadata"]["ownerReferences"] == [owner]
    assert (
        render(_request(workers=3), template=template)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 1
    )
    with pytest.raises(RecipeError, match="would leave some idle; use 4 or 8"):
        render(_request(workers=6), template=template)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"corpus": "runs/corpus"}, UserError, "share nothing with this one but the object store"),
        ({"base": "file:///runs/base"}, UserError, "write s3://bucket/prefix"),
        ({"checkpoints": ""}, UserError, "checkpoints="),
        ({"corpus": "s3://bucket"}, UserError, "corpus=s3://bucket"),
        ({"stage": "stage4_expert"}, CheckpointError, "needs a checkpoint to start from"),
        ({"stage": "stage9"}, RecipeError, "no stage"),
        ({"workers": 0}, RecipeError, "at least 1"),
        ({"strategy": "zero9"}, RecipeError, "use one of ddp"),
        ({"run_id": ""}, UserError, "--run-id"),
    ],
)
def test_what_would_fail_after_a_queue_is_refused_before(
    changes: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as refused:
        _request(**changes)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"kind": "RayJob", "metadata": {"annotations": {}}, "spec": {}}',
        '{"kind": "TrainJob", "spec": {}}',
        "[]",
    ],
)
def test_a_template_that_the_chart_did_not_render_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    with pytest.raises(UserError, match=r"pipelines\.launcher=rayjob"):
        Template.read(file)
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match="is not what the chart renders"):
        Template.read(file)
