"""A question about a study, put to the public routes, and what must be the same wherever it was put."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.kserve.trained import QUESTION


def upload(caller: httpx.Client, endpoint: str, image: Path) -> dict[str, Any]:
    """Upload an image of a CT and return the study."""
    with image.open("rb") as file:
        response = caller.post(f"{endpoint}/v1/studies", files={"file": (image.name, file)}, data={"modality": "CT"})
    assert response.is_success, response.text
    told: dict[str, Any] = response.json()
    return told


def question(study: dict[str, Any], **extras: object) -> dict[str, Any]:
    """The body of a request about the study."""
    image = {"type": "image_url", "image_url": {"url": f"study://{study['id']}"}}
    content = [image, {"type": "text", "text": QUESTION}]
    return {"model": "vilam3", "messages": [{"role": "user", "content": content}], **extras}


def events(caller: httpx.Client, endpoint: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Our typed events of a streamed answer, as they come; the last one is the answer."""
    with caller.stream("POST", f"{endpoint}/v1/chat/completions", json=body) as response:
        if response.is_error:
            response.read()
        assert response.is_success, response.text
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                if "vilam3" in chunk:
                    yield chunk["vilam3"]


def found(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be the same wherever the question was asked."""
    (call,) = answer["expert_calls"]
    kept = {name: call[name] for name in ("expert", "argument", "text", "colors", "measurements", "error")}
    weights = (call["provenance"]["weights_digest"], answer["provenance"]["model_digest"])
    return {"answer": answer["answer"], "notes": answer["notes"], "weights": weights, **kept}
