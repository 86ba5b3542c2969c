"""Makes compiled pipelines known to a Kubeflow Pipelines server, once for each content, and keeps one schedule.

An installation runs this again and again; what the server already has it leaves alone. A version is named by its
content, so that a person sees in the page which of them a run used.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipelines.retrain import NAME as RETRAIN
from vilam3 import __version__
from vilam3.errors import EngineError, NotFoundError, UserError

SCHEDULED = "vilam3-scheduled"  # prefix of our recurring runs; those of others are not touched
HASH_DIGITS = 12
PAGE = 100
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to retrain, and from what.

    Attributes:
        cron: Six fields, seconds first.
        arguments: Of the pipeline.
        version: Of the retraining pipeline; a schedule keeps to one, so a new version is a new schedule.
    """

    cron: str
    arguments: Mapping[str, str]
    version: str

    @property
    def name(self) -> str:
        """Of the recurring run: another schedule is another run."""
        told = json.dumps([self.cron, self.version, dict(self.arguments)], sort_keys=True)
        return f"{SCHEDULED}-{_digits(told.encode())}"


class Server:
    """A Kubeflow Pipelines server."""

    def __init__(self, endpoint: str) -> None:
        """Prepare to talk to it."""
        self._endpoint = endpoint
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # kfp's client says for which servers it is, and imports
            from kfp import client  # noqa: PLC0415 - parts of itself that it deprecates, and the Kubernetes client

            self._client: Any = self._asked("be reached", lambda: client.Client(host=endpoint))

    def publish(self, package: Path) -> tuple[str, str]:
        """Make a compiled pipeline a version, unless it is one; returns the names of both.

        Raises:
            UserError: the file is no compiled pipeline.
            EngineError: the server refused or is out of reach.
        """
        name = _pipeline_name(package)
        version = f"{__version__}-{_digits(package.read_bytes())}"
        found = self._asked("be searched", lambda: self._client.get_pipeline_id(name))
        if found is None:  # the server makes a first version of it by itself, under the pipeline's name
            made = self._asked("take a pipeline", lambda: self._client.upload_pipeline(str(package), name))
            found = made.pipeline_id
        if version not in self._versions(found):
            self._asked(
                "take a version",
                lambda: self._client.upload_pipeline_version(str(package), version, pipeline_id=found),
            )
        return name, version

    def schedule(self, wanted: Schedule, *, experiment: str) -> str:
        """Keep `wanted` as the one recurring run of ours; returns its name.

        Raises:
            NotFoundError: the server has no retraining pipeline of that version yet.
            EngineError: the server refused or is out of reach.
        """
        pipeline = self._asked("be searched", lambda: self._client.get_pipeline_id(RETRAIN))
        version = self._versions(pipeline).get(wanted.version) if pipeline else None
        if version is None:
            what = f"{self._endpoint}: no version {wanted.version} of {RETRAIN} yet"
            raise NotFoundError(f"{what}; publish it first, or wait and try again")
        place = self._asked("make an experiment", lambda: self._client.create_experiment(experiment)).experiment_id
        runs = self._asked("list schedules", lambda: self._client.list_recurring_runs(page_size=PAGE)).recurring_runs
        ours = {run.display_name: run.recurring_run_id for run in runs or () if run.display_name.startswith(SCHEDULED)}
        if wanted.name not in ours:
            self._asked("take a schedule", lambda: self._create(wanted, (pipeline, version), experiment=place))
        for name, identity in ours.items():
            if name != wanted.name:
                self._asked("drop a schedule", lambda identity=identity: self._client.delete_recurring_run(identity))
        return wanted.name

    def _create(self, wanted: Schedule, identity: tuple[str, str], *, experiment: str) -> object:
        return self._client.create_recurring_run(
            experiment,
            wanted.name,
            cron_expression=wanted.cron,
            no_catchup=True,  # after a pause once, not for every time that was missed
            params=dict(wanted.arguments),
            pipeline_id=identity[0],
            version_id=identity[1],
        )

    def _versions(self, pipeline: str) -> dict[str, str]:
        """Versions by name: their ids."""
        listed = self._asked("list versions", lambda: self._client.list_pipeline_versions(pipeline, page_size=PAGE))
        return {one.display_name: one.pipeline_version_id for one in listed.pipeline_versions or ()}

    def _asked(self, what: str, call: Callable[..., T]) -> T:
        try:
            return call()
        except Exception as error:  # the client raises whatever its layers raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise EngineError(f"{self._endpoint}: could not {what}: {reason}; check address and server") from error


def _pipeline_name(package: Path) -> str:
    try:
        told = next(iter(yaml.safe_load_all(package.read_text(encoding="utf-8"))))
        return str(told["pipelineInfo"]["name"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"--package {package}: no compiled pipeline ({type(error).__name__}); write one by vilam3 pipeline compile"
        ) from error


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
