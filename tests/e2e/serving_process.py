"""The real server with a rule-following engine, in its own process: ``python -m tests.e2e.serving_process PORT``.

``--role vlm`` and ``--role expert`` serve the engine and one expert alone; the orchestrator needs no fake and is
started as users start it, with `vilam3 serve --role orchestrator`.
"""

import argparse
import tempfile
from pathlib import Path

from serving.answer import Service
from serving.app import install
from serving.expert import ExpertService
from serving.models import ChatModel
from serving.roles import Place, expert_part, model_part
from serving.server import Listening, Part, serve
from serving.tenants import from_environment
from serving.vlm import ModelService
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3 import log, tracing
from vilam3.consultant import Consultant
from vilam3.shelf import Shelf

DIGEST = "d" * 64


def main() -> None:
    """Serve until told to stop."""
    given = _parsed()
    log.setup()
    tracing.setup(given.role)
    with tempfile.TemporaryDirectory() as work:
        place = Place(work=Path(work), studies_uri=given.studies, tenants=from_environment(host="127.0.0.1"))
        listening = Listening(host="127.0.0.1", port=given.port)
        serve(_part(given, place), listening, on_ready=lambda url: print(f"ready: {url}", flush=True))  # noqa: T201 - a program


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--role", choices=("single", "vlm", "expert"), default="single")
    parser.add_argument("--expert", default="VISTA3D")
    parser.add_argument("--studies", default="")
    parser.add_argument("--expert-s", type=float, default=0.0)
    parser.add_argument("--token-s", type=float, default=0.0)
    parser.add_argument("--holds-processor", action="store_true")
    return parser.parse_args()


def _part(given: argparse.Namespace, place: Place) -> Part:
    engine = RuleEngine(token_s=given.token_s)
    experts = SlowExperts(seconds=given.expert_s, holds_processor=given.holds_processor)
    if given.role == "vlm":
        model = ModelService(engine=engine, digest=DIGEST, dialect="demo", tenants=place.tenants)
        return model_part(model, store=place.any_store(), experts={})
    if given.role == "expert":
        shelf = Shelf(place.shared(role="expert"))
        return expert_part(
            ExpertService(name=given.expert, opened=lambda _: experts, shelf=shelf, tenants=place.tenants)
        )
    consultant = Consultant(engine=engine, experts=experts, model_digest=DIGEST)
    service = Service.create(consultant, tenants=place.tenants, work=place.work)
    return Part(install=lambda app: install(app, service), models=lambda: [ChatModel(service)], close=service.close)


if __name__ == "__main__":
    main()
