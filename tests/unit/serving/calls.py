"""Requests as callers write them, and what is expected of every refusal."""

import base64
import json
from typing import Any, Protocol

from fastapi.testclient import TestClient


class Reply(Protocol):
    """What is used of a response; the test client and httpx have different ones."""

    status_code: int

    @property
    def text(self) -> str:
        """The body."""
        ...

    def json(self) -> Any:  # noqa: ANN401 - as in httpx
        """The body, decoded."""
        ...


def data_url(content: bytes, kind: str = "image/png") -> str:
    """The content in a URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def asked(text: str, *urls: str, **extra: object) -> dict[str, Any]:
    """A chat request."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], **extra}


def uploaded(client: TestClient, content: bytes, name: str = "ct.nii.gz", **headers: str) -> dict[str, Any]:
    """Upload a study; returns what the server says of it."""
    response = client.post("/v1/studies", files={"file": (name, content)}, headers=headers)
    assert response.status_code == 201, response.text
    return dict(response.json())


def streamed(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask for a stream; returns its chunks."""
    response = client.post("/v1/chat/completions", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def refused(response: Reply, status: int, *words: str) -> dict[str, Any]:
    """The one shape of errors: one sentence that holds these words."""
    error = response.json()["error"]
    assert response.status_code == status, response.text
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    for word in words:
        assert word in error["message"]
    return dict(error)
