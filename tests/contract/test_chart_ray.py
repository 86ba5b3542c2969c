"""What the chart hands to Ray Serve is what the application takes, and names deployments that it has."""

import warnings
from importlib.metadata import entry_points
from typing import Any

import pytest
import yaml

from tests.chart import BUILD_TIMEOUT_S, RELEASE, of_kind, render
from vilam3.engines import EngineChoice
from vilam3.experts.registry import GROUP
from vilam3.experts.trigger import PUBLISHED_ORDER

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Ray declares its own settings in pydantic's older way
    from serving import ray_app

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)


@pytest.fixture(scope="module")
def application() -> dict[str, Any]:
    service = of_kind(render("ray"), "RayService")[f"{RELEASE}-ray"]
    (found,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    return dict(found)


def test_the_import_path_is_the_application(application: dict[str, Any]) -> None:
    module, _, name = application["import_path"].partition(":")
    assert module == ray_app.__name__
    assert callable(getattr(ray_app, name))


def test_the_arguments_are_those_it_takes(application: dict[str, Any]) -> None:
    given = ray_app.Settings.model_validate(application["args"])
    assert given.deadline_s == 600


def test_every_deployment_is_one_it_makes(application: dict[str, Any]) -> None:
    """Ray refuses a configuration that names another."""
    named = {one["name"] for one in application["deployments"]}
    assert named <= {"LanguageModel", *(point.name for point in entry_points(group=GROUP))}
    assert named == {"LanguageModel", *PUBLISHED_ORDER}  # this scenario runs the published experts
    assert hasattr(ray_app, "LanguageModel")


def test_a_replica_gets_a_part_of_an_accelerator(application: dict[str, Any]) -> None:
    shares = {one["name"]: one.get("ray_actor_options", {}).get("num_gpus", 0) for one in application["deployments"]}
    assert shares["LanguageModel"] + shares["VISTA3D"] + shares["BRATS"] <= 1
    assert shares["CXR"] == 0


def test_bounds_of_engine_and_answers_are_the_installations() -> None:
    """What the chart says of them arrives in the deployments, as it does in the other modes."""
    changes = {"vlm": {"slots": 6, "waiting": 9, "memoryGiB": 2}, "serving": {"answers": {"perKey": 3}}}
    (service,) = of_kind(render("ray", changes=changes), "RayService").values()
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    given = ray_app.Settings.model_validate(application["args"])
    assert given.engine() == EngineChoice(slots=6, waiting=9, memory_gib=2)
    assert given.terms().budget.per_tenant == 3
    assert given.batched()["max_ongoing_requests"] == 6
    assert given.batched()["autoscaling_config"]["target_ongoing_requests"] == 3
