"""Asks a running server, as any client of its would; the only place of the library that speaks HTTP to it."""

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from vilam3.data.sample import Modality
from vilam3.errors import DataError, EngineError, NotFoundError, UserError, VilaM3Error

KEY_VARIABLE = "VILAM3_API_KEY"
CONNECT_S = 5.0
ANSWER_S = 300.0  # between two events; a server ends an answer earlier by itself
NOT_FOUND = 404
FIRST_FAULT_OF_THEIRS = 500


class Server:
    """A server of the OpenAI-compatible endpoint; use as a context manager."""

    def __init__(self, url: str) -> None:
        """Prepare to talk to `url`, with or without ``/v1``; the key comes from ``VILAM3_API_KEY``.

        Raises:
            UserError: it is not an HTTP URL.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UserError(f"--server {url}: not an HTTP address; write it like http://127.0.0.1:8080")
        key = os.environ.get(KEY_VARIABLE, "")
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            trust_env=not is_loopback(parts.hostname),  # a proxy cannot reach our own loopback
        )

    def __enter__(self) -> Self:
        """Open the connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def upload(self, images: Sequence[Path], *, modality: Modality | None = None) -> dict[str, Any]:
        """Send files, or the files of a folder, as one study; returns what the server says of it.

        Raises:
            DataError: the server cannot use them.
        """
        with contextlib.ExitStack() as opened, self._translated():
            files = [("file", (path.name, opened.enter_context(path.open("rb")))) for path in _files(images)]
            response = self._http.post("/v1/studies", files=files, data={"modality": modality} if modality else {})
            return dict(self._checked(response).json())

    def name(self, urls: Sequence[str], *, modality: Modality | None = None) -> dict[str, Any]:
        """Let the server fetch images elsewhere as one study; returns what it says of it.

        Raises:
            DataError: the server cannot use them, or fetches nothing from there.
        """
        named = {"urls": list(urls)} | ({"modality": modality} if modality else {})
        with self._translated():
            return dict(self._checked(self._http.post("/v1/studies", json=named)).json())

    def stow(self, answer_id: str) -> list[dict[str, Any]]:
        """Let the server store an answer's segmentations in its PACS; returns what was stored.

        Raises:
            DataError: the server knows no PACS.
            NotFoundError: there is nothing to store.
            EngineError: the PACS is out of reach.
        """
        with self._translated():
            stored: list[dict[str, Any]] = self._checked(self._http.post(f"/v1/results/{answer_id}/stow")).json()[
                "stored"
            ]
            return stored

    def forget(self, study_id: str) -> None:
        """Let the server delete a study."""
        with self._translated():
            self._checked(self._http.delete(f"/v1/studies/{study_id}"))

    def ask(self, question: str, *, study_id: str | None = None, **extras: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - request fields
        """Ask and yield the server's typed events; the last one is ``answer``.

        Args:
            question: As typed.
            study_id: An uploaded study.
            extras: Further fields of the request, such as `slice_index`.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": question}]
        if study_id is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": f"study://{study_id}"}})
        body = {"messages": [{"role": "user", "content": content}], "stream": True, **extras}
        with self._translated(), self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
            for line in self._checked(response).iter_lines():
                yield from self._events(line)

    def fetch(self, path: str) -> bytes:
        """The bytes of an overlay or mask."""
        with self._translated():
            return self._checked(self._http.get(path)).content

    def json(self, path: str) -> dict[str, Any]:
        """A JSON document of the server."""
        with self._translated():
            return dict(self._checked(self._http.get(path)).json())

    def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer to a chat request."""
        with self._translated():
            return dict(self._checked(self._http.post("/v1/chat/completions", json=request)).json())

    def _events(self, line: str) -> Iterator[dict[str, Any]]:
        if not line.startswith("data: {"):
            return
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise EngineError(f"{self.url}: {chunk['error']['message']}")
        if "vilam3" in chunk:
            yield chunk["vilam3"]

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        raise self._error(response)

    def _error(self, response: httpx.Response) -> VilaM3Error:
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"answered with HTTP {response.status_code}; is it a vilam3 server?"
        if response.status_code >= FIRST_FAULT_OF_THEIRS:
            return EngineError(f"{self.url}: {message}")
        return (NotFoundError if response.status_code == NOT_FOUND else DataError)(f"{self.url}: {message}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise EngineError(
                f"{self.url}: no server answers there; start one with vilam3 serve, or leave --server out"
            ) from error
        except httpx.HTTPError as error:
            raise EngineError(f"{self.url}: the connection failed ({type(error).__name__}); try again") from error


def _files(images: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for image in images:
        if not image.exists():
            raise DataError(f"{image}: no such file or folder; give the images of one study")
        inner = sorted(path for path in image.rglob("*") if path.is_file() and not path.name.startswith("."))
        found += inner if image.is_dir() else [image]
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
