"""The job that trains a stage: an installation's facts from its template, the run's own from a request."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vilam3.errors import CheckpointError, RecipeError, UserError
from vilam3.launch.back_end import BackEnd, Manifest, Work
from vilam3.launch.rayjob import RayJobs
from vilam3.launch.trainjob import TrainJobs
from vilam3.recipe import Recipe
from vilam3.train.record import digest_of

BACK_ENDS: Mapping[str, BackEnd] = {"RayJob": RayJobs(), "TrainJob": TrainJobs()}
REQUEST, TEMPLATE, NEWS = "vilam3/request-digest", "vilam3/template-digest", "vilam3/news"
PER_POD, STARTING, STALLED = "vilam3/workers-per-pod", "vilam3/starting-seconds", "vilam3/stalled-seconds"
UNWATCHED = "vilam3/unwatched-seconds"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")  # of `vilam3.train.strategy`, which needs torch
HERE = "/tmp/vilam3"  # noqa: S108 - a volume of the pod's own
LAUNCHED = "launched"  # folder below the checkpoints
DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One stage to be trained by a job of its own.

    Attributes:
        recipe: Resolved.
        stage: Which of its stages.
        corpus: A prepared corpus, ``s3://``.
        base: Checkpoint of the stage before, ``s3://``; empty where stage 1 starts from nothing.
        checkpoints: Where state and result are kept, ``s3://bucket/prefix``.
        workers: Data-parallel processes; None for the stage's devices.
        strategy: How they divide the model; empty for what the stage says.
        run_id: Of the pipeline run; the same run, stage and recipe is the same job.
    """

    recipe: Recipe
    stage: str
    corpus: str
    base: str
    checkpoints: str
    workers: int | None = None
    strategy: str = ""
    run_id: str

    def __post_init__(self) -> None:
        """Refuse now what the job would refuse after its time in the queue."""
        self.recipe.stage(self.stage)
        if not self.run_id:
            raise UserError("vilam3 launch: no run to belong to; give --run-id, any name that a later try gives again")
        if self.strategy and self.strategy not in STRATEGIES:
            raise RecipeError(f"strategy={self.strategy}: not known; use one of {', '.join(STRATEGIES)}")
        if self.workers is not None and self.workers < 1:
            raise RecipeError(f"workers={self.workers}: must be at least 1")
        if not self.base and not self.recipe.starts_from_nothing(self.stage):
            raise CheckpointError(f"stage {self.stage}: needs a checkpoint to start from; give its s3:// URI as base")
        for name, place in (("corpus", self.corpus), ("base", self.base), ("checkpoints", self.checkpoints)):
            parts = urlsplit(place)
            if (place or name != "base") and (parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/")):
                raise UserError(
                    f"{name}={place}: the pods of a job share nothing with this one but the object store; put it there "
                    "and write s3://bucket/prefix"
                )

    @property
    def num_workers(self) -> int:
        """Data-parallel processes."""
        return self.workers or self.recipe.stage(self.stage).devices

    @property
    def name(self) -> str:
        """Of the job: a later try of the same finds it."""
        identity = digest_of({"run": self.run_id, "stage": self.stage, "recipe": self.recipe.digest})
        return f"vilam3-{self.stage.replace('_', '-')}-{identity[:DIGITS]}"

    @property
    def digest(self) -> str:
        """Of all that was asked for."""
        asked = {"corpus": self.corpus, "base": self.base, "checkpoints": self.checkpoints, "strategy": self.strategy}
        return digest_of({**asked, "workers": self.num_workers, "stage": self.stage, "recipe": self.recipe.digest})

    def news(self, mark: str) -> str:
        """Where one job of that name leaves its news: a later one must not be taken for it."""
        return f"{self.checkpoints.rstrip('/')}/{LAUNCHED}/{self.name}-{mark}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What an installation says of its jobs.

    Attributes:
        back_end: The kind of its jobs.
        manifest: A job that lacks its name, command and number of workers.
        workers_per_pod: Accelerators of a pod, each with a process; 1 where there are none.
        starting_s: How long a job that has machines may take to its first step.
        stalled_s: How long a step may take.
        unwatched_s: How long a job goes on that nobody watches.
    """

    back_end: BackEnd
    manifest: Manifest
    workers_per_pod: int
    starting_s: float
    stalled_s: float
    unwatched_s: float

    @classmethod
    def read(cls, path: Path) -> "Template":
        """The template that an installation left in a file.

        Raises:
            UserError: there is none, or it is not what the chart renders.
        """
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            told = manifest["metadata"]["annotations"]
            back_end = BACK_ENDS[manifest["kind"]]
            back_end.verify(manifest)
            return cls(
                back_end=back_end,
                manifest=manifest,
                workers_per_pod=int(told[PER_POD]),
                starting_s=float(told[STARTING]),
                stalled_s=float(told[STALLED]),
                unwatched_s=float(told[UNWATCHED]),
            )
        except OSError as error:
            raise UserError(
                f"template {path}: cannot be read ({error.strerror}); it is the file job.json of the ConfigMap "
                "vilam3-job, which the chart makes with pipelines.launcher=rayjob or trainjob"
            ) from error
        except (ValueError, LookupError, TypeError, StopIteration) as error:
            raise UserError(f"template {path}: is not what the chart renders ({error!r}); take it again") from error

    @property
    def digest(self) -> str:
        """Of all of it."""
        return digest_of(self.manifest)

    def pods_for(self, workers: int) -> int:
        """How many pods hold so many processes.

        Raises:
            RecipeError: accelerators would be left over.
        """
        pods = math.ceil(workers / self.workers_per_pod)
        if workers > self.workers_per_pod and workers % self.workers_per_pod:
            raise RecipeError(
                f"workers={workers}: a pod of this installation holds {self.workers_per_pod}, and {pods} pods would "
                f"leave some idle; use {(pods - 1) * self.workers_per_pod} or {pods * self.workers_per_pod}"
            )
        return pods


def render(
    request: Request, *, template: Template, mark: str = "first", owner: Mapping[str, Any] | None = None
) -> Manifest:
    """The manifest of a job.

    Args:
        request: What to train.
        template: Of the installation.
        mark: Tells this job from an earlier one of its name.
        owner: Reference to the object whose deletion takes the job along.
    """
    manifest = copy.deepcopy(template.manifest)
    metadata = manifest["metadata"]
    metadata["name"] = request.name
    news = request.news(mark)
    metadata["annotations"] |= {REQUEST: request.digest, TEMPLATE: template.digest, NEWS: news}
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    work = Work(
        options=_options(request, news, unwatched_s=template.unwatched_s),
        recipe=request.recipe.resolved_json(),
        workers=request.num_workers,
        pods=template.pods_for(request.num_workers),
    )
    template.back_end.fill(manifest, work)
    return manifest


def _options(request: Request, news: str, *, unwatched_s: float) -> list[str]:
    """What `vilam3 train` is told, whoever starts it."""
    words = ["--stage", request.stage, "--corpus", request.corpus]
    words += ["--base", request.base] if request.base else []
    words += ["--out", f"{HERE}/{request.stage}", "--runs", HERE]
    words += ["--strategy", request.strategy] if request.strategy else []
    return [*words, "--checkpoints", request.checkpoints, "--news", news, "--unwatched-s", f"{unwatched_s:g}"]
