"""As much of a Kubeflow Pipelines server as publishing needs, over HTTP: it keeps what it is given."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

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
            self._answer({"pipeline_versions": [{"pipeline_version_id": name, "display_name": name} for name in names]})
        elif path == "/pipelines":
            self._list("pipelines", "pipeline_id", self.kept.pipelines, query)
        elif path == "/experiments":
            self._list("experiments", "experiment_id", self.kept.experiments, query)
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
            self._answer({"pipeline_version_id": query["name"]})
        elif path == "/experiments":
            name = json.loads(body)["display_name"]
            self._answer({"experiment_id": self.kept.add(self.kept.experiments, name), "display_name": name})
        else:
            given = json.loads(body)
            identity = f"run-{len(self.kept.calls)}"
            self.kept.schedules[identity] = given
            self._answer({"recurring_run_id": identity, "display_name": given["display_name"]})

    def do_DELETE(self) -> None:
        """A schedule to forget."""
        del self.kept.schedules[self.path.rpartition("/")[2]]
        self._answer({})

    def _list(self, name: str, key: str, names: dict[str, str], query: dict[str, str]) -> None:
        wanted = None
        if "filter" in query:
            predicate = json.loads(query["filter"])["predicates"][0]
            wanted = predicate.get("stringValue", predicate.get("string_value"))
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
