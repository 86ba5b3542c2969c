"""As much of a Kubeflow Pipelines server as publishing and starting runs need, over HTTP: it keeps what it is given."""

import json
import re
import time
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

CLOCK = "%Y-%m-%dT%H:%M:%SZ"
ROOT = "/apis/v2beta1"


class Kept:
    """What the server has."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.pipelines: dict[str, str] = {}  # id to name
        self.versions: dict[str, list[str]] = {}  # pipeline's id to names
        self.experiments: dict[str, str] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.specs: dict[str, Any] = {}  # of versions, by name
        self.runs: list[dict[str, Any]] = []
        self.lost_answers = 0  # so many runs are made and never answered for

    def add(self, names: dict[str, str], name: str) -> str:
        """Keep a name under a new id."""
        identity = f"id-{len(names)}-{name}"
        names[identity] = name
        return identity


class Handler(BaseHTTPRequestHandler):
    """Answers from what is kept; a test makes a class of its own with a `kept` of its own."""

    kept: ClassVar[Kept]

    def do_GET(self) -> None:
        """Lists."""
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(ROOT)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if path == "/healthz":
            self._answer({"multi_user": False})
        elif found := re.fullmatch(r"/pipelines/([^/]+)/versions", path):
            names = self.kept.versions[found[1]]
            newest_first = reversed(names) if query.get("sort_by") == "created_at desc" else names
            self._answer({"pipeline_versions": [self._version(found[1], name) for name in newest_first]})
        elif path == "/pipelines":
            self._list("pipelines", "pipeline_id", self.kept.pipelines, query)
        elif path == "/experiments":
            self._list("experiments", "experiment_id", self.kept.experiments, query)
        elif path == "/runs":
            wanted = _named(query)
            self._answer({"runs": [run for run in self.kept.runs if wanted in {None, run["display_name"]}]})
        else:
            runs = [{"recurring_run_id": key, **value} for key, value in self.kept.schedules.items()]
            self._answer({"recurringRuns": runs})

    def do_POST(self) -> None:
        """Something to keep."""
        parts = urlsplit(self.path)
        path = parts.path.removeprefix(ROOT)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.kept.calls.append(path)
        if path == "/pipelines/upload":
            identity = self.kept.add(self.kept.pipelines, query["name"])
            self.kept.versions[identity] = [query["name"]]
            self._answer({"pipeline_id": identity, "display_name": query["name"]})
        elif path == "/pipelines/upload_version":
            assert b"pipelineInfo" in body
            self.kept.versions[query["pipelineid"]].append(query["name"])
            uploaded = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
            self.kept.specs[query["name"]] = next(iter(yaml.safe_load_all(uploaded)))
            self._answer({"pipeline_version_id": query["name"]})
        elif path == "/experiments":
            name = json.loads(body)["display_name"]
            self._answer({"experiment_id": self.kept.add(self.kept.experiments, name), "display_name": name})
        elif path == "/runs":
            self._start(json.loads(body))
        else:
            given = json.loads(body)
            identity = f"run-{len(self.kept.calls)}"
            self.kept.schedules[identity] = given
            self._answer({"recurring_run_id": identity, "display_name": given["display_name"]})

    def _start(self, given: dict[str, Any]) -> None:
        """A run; names need not differ, as on the real server."""
        made = {**given, "run_id": f"run-{uuid.uuid4()}", "state": "PENDING", "created_at": time.strftime(CLOCK)}
        self.kept.runs.append(made)
        if self.kept.lost_answers:
            self.kept.lost_answers -= 1
            self.close_connection = True
            return
        self._answer(made)

    def _version(self, pipeline: str, name: str) -> dict[str, Any]:
        told = {"pipeline_id": pipeline, "pipeline_version_id": name, "display_name": name}
        return {**told, "pipeline_spec": self.kept.specs.get(name, {})}

    def do_DELETE(self) -> None:
        """A schedule to forget."""
        del self.kept.schedules[self.path.rpartition("/")[2]]
        self._answer({})

    def _list(self, name: str, key: str, names: dict[str, str], query: dict[str, str]) -> None:
        wanted = _named(query)
        found = [{key: one, "display_name": told} for one, told in names.items() if wanted in {None, told}]
        self._answer({name: found})

    def _answer(self, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _named(query: dict[str, str]) -> str | None:
    """The display name that a filter asks for."""
    if "filter" not in query:
        return None
    predicate = json.loads(query["filter"])["predicates"][0]
    wanted: str | None = predicate.get("stringValue", predicate.get("string_value"))
    return wanted
