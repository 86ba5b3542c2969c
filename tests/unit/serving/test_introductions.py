"""A graph's model offers an added expert from the moment its service has shown its card, and waits for none."""

import time
from typing import Any

import pytest
from fastapi import FastAPI

from serving.introductions import Introductions
from tests.unit.serving.live import free_port, live
from vilam3.errors import UserError
from vilam3.experts.facts import ARGUMENTS
from vilam3.experts.protocol import ExpertCall

LONGEST_S = 20.0


def expert_service() -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models/denoise")
    def card() -> dict[str, Any]:
        return {"name": "DENOISE", "arguments": ["picture"], "card": "<DENOISE(args)> Modality: CT"}

    return app


def test_an_added_expert_is_offered_once_it_is_up() -> None:
    port = free_port()
    known = Introductions({"DENOISE": f"http://127.0.0.1:{port}", "CXR": "http://127.0.0.1:9"}, ask_again_s=0.05)
    assert set(known.roster().names) == set(ARGUMENTS)
    with live(expert_service(), port=port):
        end = time.monotonic() + LONGEST_S
        while "DENOISE" not in known.roster().names and time.monotonic() < end:
            time.sleep(0.02)
    roster = known.roster()
    assert roster.grammar().parse("<DENOISE(picture)>") == (ExpertCall(expert="DENOISE", argument="picture"),)
    assert "<DENOISE(args)> Modality: CT\n" in roster.cards()
    known.close()


def test_what_is_no_address_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="--expert-url DENOISE="):
        Introductions({"DENOISE": "denoise"})
