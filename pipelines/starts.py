"""What starts the runs of the intake: a Kubeflow Pipelines server, or a process of this machine."""

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from pipelines.publish import PAGE, Server
from vilam3.artifacts import write_text
from vilam3.errors import EngineError, NotFoundError, UserError
from vilam3.intake.event import Digests, Event, Run, State

START_TIMEOUT_S = 25.0  # less than half of a turn's lease: who waits longer does not know whether it has started
POLL_S = 0.05
PROCESS = "process.json"
# The run leaves its parent, and notes itself, so that it is found whatever becomes of who started it; exec keeps its
# time of birth.
NOTED = (
    "import json, os, psutil, sys; os.fork() and os._exit(0); me = psutil.Process(); "
    "partial = sys.argv[1] + '.partial'; "
    "open(partial, 'w').write(json.dumps({'pid': me.pid, 'began_s': me.create_time()})); "
    "os.replace(partial, sys.argv[1]); os.execv(sys.executable, [sys.executable, '-m', 'vilam3', *sys.argv[2:]])"
)
ENDED: Mapping[str, State] = {
    "SUCCEEDED": "succeeded", "SKIPPED": "succeeded", "FAILED": "failed", "CANCELED": "failed"
}  # fmt: skip


class KfpStarts(Server):
    """Starts runs on a Kubeflow Pipelines server."""

    def __init__(self, endpoint: str, *, experiment: str, page: str = "", version: str = "") -> None:
        """Prepare to talk to it.

        Args:
            endpoint: Of its API.
            experiment: Of the runs.
            page: Address of its page for a person's browser; the API's where it is empty.
            version: Of the pipelines; the newest where it is empty.
        """
        super().__init__(endpoint)
        self._experiment = experiment
        self._page = (page or endpoint).rstrip("/")
        self._version = version

    def find(self, name: str) -> Run | None:
        """See `vilam3.intake.event.Starts`."""
        told = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        wanted = json.dumps({"predicates": [told]})
        listed = self._asked("list runs", lambda: self._client.list_runs(page_size=PAGE, filter=wanted))
        found = [run for run in listed.runs or () if run.display_name == name]
        if not found:
            return None
        first = min(found, key=lambda run: (str(run.created_at), run.run_id))
        return self._run(first.run_id, name, str(first.state or ""))

    def start(self, name: str, event: Event, digests: Digests) -> Run:
        """See `vilam3.intake.event.Starts`."""
        from kfp_server_api import (  # noqa: PLC0415 - imports every model of the API
            V2beta1PipelineVersionReference,
            V2beta1Run,
            V2beta1RuntimeConfig,
        )

        version = self._chosen(event.pipeline)
        reference = {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.pipeline_version_id}
        with contextlib.redirect_stdout(io.StringIO()):  # the client prints a link; only one process starts at a time
            place = self._asked("make an experiment", lambda: self._client.create_experiment(self._experiment))
        body = V2beta1Run(
            display_name=name,
            description=f"asked by {event.trigger}",
            experiment_id=place.experiment_id,
            pipeline_version_reference=V2beta1PipelineVersionReference(**reference),
            runtime_config=V2beta1RuntimeConfig(parameters=_arguments(version, event, digests)),
        )
        # The client's own way has no bound on its time.
        create = self._client._run_api.run_service_create_run  # noqa: SLF001 - likewise
        made = self._asked("start a run", lambda: create(run=body, _request_timeout=START_TIMEOUT_S))
        return self._run(made.run_id, name, str(made.state or ""))

    def _chosen(self, pipeline: str) -> Any:  # noqa: ANN401 - kfp has no types
        """The version of a pipeline that is to run."""
        identity = self._asked("be searched", lambda: self._client.get_pipeline_id(pipeline))
        fitting = [] if identity is None else self._versions_of(identity)
        if not fitting:
            what = f"version {self._version} of {pipeline}" if self._version else f"version of {pipeline}"
            raise NotFoundError(f"{self._endpoint}: has no {what}; publish it by vilam3 pipeline publish")
        return fitting[0]

    def _versions_of(self, identity: str) -> list[Any]:
        """Versions that may be chosen, the newest first."""
        newest = {"page_size": PAGE, "sort_by": "created_at desc"}
        listed = self._asked("list versions", lambda: self._client.list_pipeline_versions(identity, **newest))
        return [one for one in listed.pipeline_versions or () if self._version in {"", one.display_name}]

    def _run(self, identity: str, name: str, state: str) -> Run:
        link = f"{self._page}/#/runs/details/{identity}"
        return Run(id=identity, name=name, link=link, state=ENDED.get(state, "running"))


class HereStarts:
    """Starts runs as processes of this machine, which go on when whoever asked has ended."""

    def __init__(self, runs: Path) -> None:
        """Keep a folder for each run below `runs`."""
        self._runs = runs

    def find(self, name: str) -> Run | None:
        """See `vilam3.intake.event.Starts`."""
        folder = self._runs / name
        if not (folder / PROCESS).is_file():
            return None
        process = json.loads((folder / PROCESS).read_text(encoding="utf-8"))
        state: State = "running" if _lives(process) else ("succeeded" if _is_done(folder) else "failed")
        return Run(id=name, name=name, link=folder.absolute().as_uri(), state=state)

    def start(self, name: str, event: Event, digests: Digests) -> Run:
        """See `vilam3.intake.event.Starts`."""
        folder = self._runs / name
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "recipe.json", event.recipe)
        words = ["pipeline", "run", "--local", "--pipeline", event.pipeline.removeprefix("vilam3-")]
        words += ["--recipe", str(folder / "recipe.json"), "--work", str(self._runs)]
        for option, value in (event.places.model_dump() | {"corpus_digest": digests.data}).items():
            words += [f"--{option.replace('_', '-')}", value]
        with (folder / "summary.json").open("wb") as told, (folder / "log").open("ab") as log:
            subprocess.run(  # noqa: S603 - ourselves
                [sys.executable, "-c", NOTED, str(folder / PROCESS), *words],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        return self._begun(name)

    def _begun(self, name: str) -> Run:
        end = time.monotonic() + START_TIMEOUT_S
        while (run := self.find(name)) is None:
            if time.monotonic() > end:
                raise EngineError(f"{self._runs / name}: its process did not begin; see the log there")
            time.sleep(POLL_S)
        return run


def _arguments(version: Any, event: Event, digests: Digests) -> dict[str, str]:  # noqa: ANN401 - kfp has no types
    """Of the parameters that this version takes."""
    told = dict(version.pipeline_spec or {})
    taken = told.get("pipeline_spec", told).get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    given = {**event.places.model_dump(), "recipe": event.recipe, "corpus_digest": digests.data}
    lacking = [name for name, one in taken.items() if name not in given and not one.get("isOptional")]
    if lacking:
        raise UserError(
            f"{event.pipeline}, version {version.display_name}: needs {lacking[0]}, which an event does not have; "
            "name a version that does without"
        )
    return {name: value for name, value in given.items() if name in taken}


def _lives(process: Mapping[str, float]) -> bool:
    try:
        found = psutil.Process(int(process["pid"]))
        return found.create_time() == process["began_s"] and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_done(folder: Path) -> bool:
    """Whether the run has told its summary, which it does last."""
    try:
        return isinstance(json.loads((folder / "summary.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False
