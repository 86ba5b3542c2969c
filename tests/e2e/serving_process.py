"""The real server with a rule-following engine, in its own process: ``python -m tests.e2e.serving_process PORT``."""

import argparse
import tempfile
from pathlib import Path

from serving.answer import Service
from serving.server import serve
from serving.tenants import from_environment
from tests.unit.serving.fakes import RuleEngine, SlowExperts
from vilam3 import log
from vilam3.consultant import Consultant


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--expert-s", type=float, default=0.0)
    parser.add_argument("--token-s", type=float, default=0.0)
    parser.add_argument("--holds-processor", action="store_true")
    given = parser.parse_args()
    log.setup()
    consultant = Consultant(
        engine=RuleEngine(token_s=given.token_s),
        experts=SlowExperts(seconds=given.expert_s, holds_processor=given.holds_processor),
        model_digest="d" * 64,
    )
    with tempfile.TemporaryDirectory() as work:
        service = Service.create(consultant, tenants=from_environment(host="127.0.0.1"), work=Path(work))
        serve(service, host="127.0.0.1", port=given.port, on_ready=lambda url: print(f"ready: {url}", flush=True))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
