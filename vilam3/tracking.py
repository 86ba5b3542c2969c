"""Runs, checkpoints and model versions in MLflow; the only module that imports it.

Weights never pass through MLflow: a version's source is the URI where training put them. MLflow has no compare-and-set
for aliases, so promotions are serialised by a lock beside the store. Works on a local sqlite file by default and
unchanged with ``MLFLOW_TRACKING_URI``.
"""

import contextlib
import fcntl
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vilam3.errors import NotFoundError, TrackingError
from vilam3.train.record import Checkpoint

# Read when mlflow is imported: weights are safetensors, nothing is ever unpickled, and nobody is told of our runs.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

with warnings.catch_warnings():
    # mlflow 3.17 maps its tables with a loader strategy that sqlalchemy 2.1 deprecates, and pydantic v1 styles linger.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    from mlflow import MlflowClient, set_tracking_uri
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

Alias = Literal["champion", "challenger", "rollback"]
KEY = "vilam3_key"  # makes a run findable by what went into it
DIGEST = "weights_digest"
BATCH = 1000  # most metrics MLflow takes at once
NEXT_STEP = "next_step"
MEASURED = "measured"  # names of the version's tags that are numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A registered model version."""

    name: str
    number: int
    source: str
    digest: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """What was measured on it when it was registered."""
        return {name: float(self.tags[name]) for name in self.tags.get(MEASURED, "").split(",") if name}

    def to_json(self) -> dict[str, Any]:
        """For a command line's output."""
        return {
            "name": self.name,
            "version": self.number,
            "source": self.source,
            "weights_digest": self.digest,
            "aliases": list(self.aliases),
            "numbers": self.numbers,
        }


class Tracking:
    """One experiment and one registered model in one store."""

    def __init__(self, client: MlflowClient, *, experiment_id: str, registered_model: str, lock: Path) -> None:
        """Use `connect` instead."""
        self._client = client
        self._experiment_id = experiment_id
        self._model = registered_model
        self._lock = lock

    def begin_run(self, name: str, *, key: str, params: Mapping[str, str] | None = None) -> str:
        """Start the run of `key`, or take up the one there is; returns its id."""
        with _translated("begin a run"):
            found = self._client.search_runs([self._experiment_id], f"tags.{KEY} = '{key}'", max_results=1)
            if found:
                self._client.set_terminated(found[0].info.run_id, status="RUNNING")
                return str(found[0].info.run_id)
            run = self._client.create_run(self._experiment_id, run_name=name, tags={KEY: key})
            for label, value in (params or {}).items():
                self._client.log_param(run.info.run_id, label, value)
            return str(run.info.run_id)

    def log_series(self, run_id: str, values: Sequence[float], *, name: str = "loss") -> None:
        """Log one value per step, counted from 1; steps that are already there are left alone."""
        with _translated("log a series"):
            run = self._client.get_run(run_id)
            logged = int(run.data.tags.get(f"{NEXT_STEP}_{name}", "1"))
            start_ms = run.info.start_time  # a time that follows from the step makes logging a point twice harmless
            points = [
                Metric(name, value, start_ms + step, step)
                for step, value in enumerate(values, start=1)
                if step >= logged
            ]
            for start in range(0, len(points), BATCH):
                self._client.log_batch(run_id, metrics=points[start : start + BATCH])
            self._client.set_tag(run_id, f"{NEXT_STEP}_{name}", str(len(values) + 1))

    def log_numbers(self, run_id: str, numbers: Mapping[str, float], *, step: int = 0) -> None:
        """Log single numbers of the run; the newest of a name stands."""
        now = _now_ms()
        with _translated("log numbers"):
            points = [Metric(name, value, now, step) for name, value in sorted(numbers.items())]
            for start in range(0, len(points), BATCH):
                self._client.log_batch(run_id, metrics=points[start : start + BATCH])

    def log_checkpoint(self, run_id: str, checkpoint: Checkpoint) -> str:
        """Make `checkpoint` a logged model of the run, once; returns its id. It stays pending until `finish_run`."""
        with _translated("log a checkpoint"):
            model_id = self._logged_model(checkpoint.digest)
            if model_id is None:
                tags = {**checkpoint.tags, "step": str(checkpoint.step), DIGEST: checkpoint.digest}
                model_id = self._client.create_logged_model(
                    self._experiment_id,
                    name=checkpoint.name,
                    source_run_id=run_id,
                    tags={**tags, "source": checkpoint.source, "run_id": run_id},
                ).model_id
                self._log_metrics(run_id, model_id, checkpoint.metrics, step=checkpoint.step)
            return str(model_id)

    def log_evaluation(self, digest: str, metrics: Mapping[str, float]) -> None:
        """Add numbers to the logged model of these weights.

        Raises:
            NotFoundError: no such model was logged.
        """
        with _translated("log an evaluation"):
            model_id = self._logged_model(digest)
            if model_id is None:
                raise NotFoundError(f"tracking: no logged model has weights {digest[:12]}; log the checkpoint first")
            tags = self._client.get_logged_model(model_id).tags
            self._log_metrics(tags["run_id"], model_id, metrics, step=int(tags["step"]))

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, in place of earlier ones of the same names."""
        with _translated("tag a run"):
            for label, value in tags.items():
                self._client.set_tag(run_id, label, value)

    def finish_run(self, run_id: str, *, succeeded: bool) -> None:
        """Close the run and settle its pending models; a run that goes on later may be finished again."""
        status = "READY" if succeeded else "FAILED"
        with _translated("finish a run"):
            for model in self._client.search_logged_models([self._experiment_id], f"tags.run_id = '{run_id}'"):
                if model.status.name != "READY":
                    self._client.finalize_logged_model(model.model_id, status)
            self._client.set_terminated(run_id, status="FINISHED" if succeeded else "FAILED")

    def best_checkpoint(self, metric: str, *, recipe_digest: str | None = None) -> Checkpoint | None:
        """The finished logged model with the greatest `metric`; None where none has it."""
        filters = f"tags.recipe_digest = '{recipe_digest}'" if recipe_digest else None
        order = [{"field_name": f"metrics.{metric}", "ascending": False}]
        with _translated("search checkpoints"):
            found = self._client.search_logged_models([self._experiment_id], filters, order_by=order)
        for model in found:
            measured = {one.key: one.value for one in model.metrics or []}
            if model.status.name == "READY" and metric in measured:
                tags = dict(model.tags)
                return Checkpoint(
                    name=model.name,
                    step=int(tags["step"]),
                    source=tags["source"],
                    digest=tags[DIGEST],
                    tags=tags,
                    metrics=measured,
                )
        return None

    def register(self, checkpoint: Checkpoint) -> Version:
        """Make `checkpoint` a version and the challenger; the same weights are registered once.

        Raises:
            TrackingError: the store refused.
        """
        with _locked(self._lock), _translated("register a version"):
            self._ensure_registered_model()
            found = next((one for one in self.versions() if one.digest == checkpoint.digest), None)
            number = found.number if found else self._create_version(checkpoint)
            measured = {name: repr(float(value)) for name, value in checkpoint.metrics.items()}
            for label, value in {**checkpoint.tags, **measured, MEASURED: ",".join(sorted(measured))}.items():
                self._client.set_model_version_tag(self._model, str(number), label, value)
            if found is None or "champion" not in found.aliases:
                self._client.set_registered_model_alias(self._model, "challenger", str(number))
            return self.version(number)

    def promote(self, number: int, *, expected_champion: int | None) -> Version:
        """Make a version the champion; the one before becomes the rollback.

        Args:
            number: Version to promote.
            expected_champion: The champion the gate compared it with, or None where there was none.

        Raises:
            TrackingError: somebody else promoted in between.
            NotFoundError: there is no such version.
        """
        with _locked(self._lock), _translated("promote a version"):
            promoted = self.version(number)
            current = self.by_alias("champion")
            if current and current.number == number:
                return promoted
            if (current.number if current else None) != expected_champion:
                held = f"version {current.number}" if current else "nobody"
                seen = f"version {expected_champion}" if expected_champion else "nobody"
                raise TrackingError(
                    f"registered model {self._model}: the champion is {held}, but the gate saw {seen}; run the "
                    "gate again"
                )
            if current:
                self._client.set_registered_model_alias(self._model, "rollback", str(current.number))
            self._client.set_registered_model_alias(self._model, "champion", str(number))
            if "challenger" in promoted.aliases:
                self._client.delete_registered_model_alias(self._model, "challenger")
            return self.version(number)

    def versions(self) -> tuple[Version, ...]:
        """All versions, newest first."""
        with _translated("list versions"):
            found = self._client.search_model_versions(f"name = '{self._model}'")
            return tuple(sorted((self.version(int(one.version)) for one in found), key=lambda one: -one.number))

    def version(self, number: int) -> Version:
        """One version.

        Raises:
            NotFoundError: there is none of that number.
        """
        with _translated("read a version", absent=f"registered model {self._model}: no version {number}"):
            raw = self._client.get_model_version(self._model, str(number))
        tags = dict(raw.tags)
        return Version(
            name=self._model,
            number=number,
            source=raw.source,
            digest=tags.get(DIGEST, ""),
            aliases=tuple(sorted(raw.aliases)),
            tags=tags,
        )

    def by_alias(self, alias: str) -> Version | None:
        """The version an alias points to, or None."""
        return next((one for one in self.versions() if alias in one.aliases), None)

    def _logged_model(self, digest: str) -> str | None:
        found = self._client.search_logged_models([self._experiment_id], f"tags.{DIGEST} = '{digest}'", max_results=1)
        return str(found[0].model_id) if found else None

    def _log_metrics(self, run_id: str, model_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        now = _now_ms()
        points = [Metric(name, value, now, step, model_id=model_id) for name, value in sorted(metrics.items())]
        if points:
            self._client.log_batch(run_id, metrics=points)

    def _ensure_registered_model(self) -> None:
        if not self._client.search_registered_models(f"name = '{self._model}'"):
            self._client.create_registered_model(self._model)

    def _create_version(self, checkpoint: Checkpoint) -> int:
        model_id = self._logged_model(checkpoint.digest)
        logged = dict(self._client.get_logged_model(model_id).tags) if model_id else {}
        tags = {**logged, **checkpoint.tags, DIGEST: checkpoint.digest, "step": str(checkpoint.step)}
        if model_id:
            tags["model_id"] = model_id  # the open-source store does not keep it in the version itself
        made = self._client.create_model_version(
            self._model, checkpoint.source, run_id=tags.get("run_id"), tags=tags, model_id=model_id
        )
        return int(made.version)


def connect(*, experiment: str, registered_model: str, runs: Path) -> Tracking:
    """Open the store: ``MLFLOW_TRACKING_URI``, or a sqlite file in `runs`.

    Raises:
        TrackingError: the store cannot be opened.
    """
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # migrations of a new store are nobody's news
    runs = runs.absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    place = None
    if not uri:
        uri = f"sqlite:///{runs / 'mlflow.db'}"
        place = (runs / "mlflow-artifacts").as_uri()  # by default it would be the current directory
    runs.mkdir(parents=True, exist_ok=True)
    lock = runs / "tracking.lock"
    with _locked(lock), _translated(f"open {uri}"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        set_tracking_uri(uri)  # the sqlite registry looks logged models up in the process-wide store
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=place)
    return Tracking(client, experiment_id=experiment_id, registered_model=registered_model, lock=lock)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes of this machine out; a new sqlite store and a promotion each want to be alone."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _translated(action: str, *, absent: str = "") -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if absent and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(f"{absent}; list the versions to see which there are") from error
        reason = str(error).partition("\n")[0]
        raise TrackingError(
            f"tracking: could not {action}: {reason}; check MLFLOW_TRACKING_URI and the store"
        ) from error


def _now_ms() -> int:
    return int(time.time() * 1000)
