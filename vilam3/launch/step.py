"""A pipeline's step that launches a job: what it knows from its own pod, and what it tells when the job is over."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from vilam3.cluster import Cluster
from vilam3.errors import RecipeError, UserError
from vilam3.launch.attach import Place
from vilam3.launch.job import Request, Template
from vilam3.launch.record import publish
from vilam3.launch.run import Outcome, launch
from vilam3.recipe import Recipe

POD_VARIABLE = "VILAM3_POD"  # by the downward API
CHECKPOINTS_VARIABLE = "VILAM3_CHECKPOINTS"  # of an installation
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def here(namespace: str = "") -> Place:
    """The cluster and namespace of this pod, or of the kubeconfig.

    Raises:
        UserError: no namespace is known.
        PrerequisiteError: no cluster is known.
    """
    found = namespace or (NAMESPACE.read_text("utf-8").strip() if NAMESPACE.is_file() else "")
    if not found:
        raise UserError("vilam3 launch: no namespace; give --namespace, the one that the chart's template is in")
    return Place(cluster=Cluster.connect(), namespace=found, pod=os.environ.get(POD_VARIABLE, ""))


def say(line: str) -> None:
    """Into the log of the step."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def launch_step(  # noqa: PLR0913 - inputs, settings and outputs of a step
    recipe: Recipe,
    *,
    stage: str,
    corpus: str,
    base: str,
    how: Mapping[str, str],
    template: Path,
    page: Path,
    runs: Path,
) -> Outcome:
    """Train one stage by a job, or go on watching the one that does; see `vilam3.steps.launch_stage`."""
    workers = how.get("workers", "")
    if workers and not workers.isdecimal():
        raise RecipeError(f"workers={workers}: not a number; leave it empty for the stage's devices")
    place = here()
    owner = place.owner()
    request = Request(
        recipe=recipe,
        stage=stage,
        corpus=corpus,
        base=base,
        checkpoints=how.get("checkpoints") or os.environ.get(CHECKPOINTS_VARIABLE, ""),
        workers=int(workers) if workers else None,
        strategy=how.get("strategy", ""),
        run_id=(owner or {}).get("uid", ""),
    )
    return launch(
        request,
        template=Template.read(template),
        place=place,
        say=say,
        on_end=lambda account: publish(request, account, runs=runs, page_file=page, say=say),
    )
