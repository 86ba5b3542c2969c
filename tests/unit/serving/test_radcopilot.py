"""The plug-in's three calls, byte for byte as it makes them, and what two users of it must never see."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving.answer import Service
from serving.app import install
from serving.tenants import Tenants
from tests.unit.serving.calls import refused
from tests.unit.serving.fakes import RuleEngine
from tests.unit.serving.live import live
from vilam3.dialogue.messages import Message

ALPHA, BETA = "alpha-key-0123456789", "beta-key-0123456789"


class Plugin:
    """What the plug-in does, by the library it uses: see the client of RadCoPilot_Slicer."""

    def __init__(self, address: str) -> None:
        """Talk to `address`, as it is typed into the plug-in."""
        self.address = address.rstrip("/")

    def info(self) -> str:
        """Buttons stay grey until this answers."""
        response = requests.get(f"{self.address}/info/", headers={"Accept": "text/event-stream"}, timeout=60)
        assert response.status_code == 200, response.text
        return response.text

    def upload(self, content: bytes | str, name: str = "tmp1.nii.gz") -> requests.Response:
        """A file, or the URL of one."""
        file = (None, content) if isinstance(content, str) else (name, content, "application/octet-stream")
        return requests.post(url=f"{self.address}/upload/", files={"file": file}, timeout=60)

    def ask(self, text: str, content: bytes | None = None) -> requests.Response:
        """A question, with the file where one was uploaded."""
        files = None if content is None else {"file": ("tmp1.nii.gz", content, "application/octet-stream")}
        return requests.post(
            f"{self.address}/v1/chat/completions/",
            headers={"Accept": "text/event-stream"},
            params={"Prompt": text, "stream": False},
            files=files,
            timeout=60,
        )


def shown(response: requests.Response) -> str:
    """What the plug-in puts into its window."""
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]["content"][0]["text"]
    return text


def picture_sums(messages: tuple[Message, ...]) -> set[int]:
    """What tells the pictures of studies apart."""
    return {int(np.asarray(image).sum()) for message in messages for image in message.images[:1]}


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    app = FastAPI()
    install(app, service)
    with live(app) as url:
        yield url


@pytest.fixture
def guarded(service: Service) -> Iterator[str]:
    """The same with keys."""
    service.tenants = Tenants([ALPHA, BETA])
    app = FastAPI()
    install(app, service)
    with live(app) as url:
        yield url.removeprefix("http://")


def volume(fill: float) -> bytes:
    """A CT that can be told from others by its grey level."""
    import nibabel as nib  # noqa: PLC0415 - here alone

    voxels = np.full((8, 9, 6), fill, np.int16)
    voxels[0] = -1000
    content: bytes = nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])).to_bytes()
    return content


def test_a_file_is_uploaded_and_asked_about_as_the_plug_in_does(address: str) -> None:
    plugin = Plugin(address)
    assert "VILA-M3" in plugin.info()
    assert plugin.upload(volume(50)).json() == {"filename": "tmp1.nii.gz", "status": "File uploaded successfully"}
    assert shown(plugin.ask("Is there a hepatic tumor?", volume(50))) == "yes"


def test_a_question_without_a_file_is_about_the_same_users_newest_study(address: str, engine: RuleEngine) -> None:
    seat = Plugin(address.replace("http://", "http://alice:any@"))
    assert seat.ask("tumor?").status_code == 400
    seat.upload(volume(-90))
    seat.upload(volume(200))
    assert shown(seat.ask("tumor?")) == "yes"
    shown(seat.ask("tumor?", volume(200)))
    assert len(set().union(*(picture_sums(messages[:1]) for messages in engine.seen))) == 1


def test_who_has_not_said_who_they_are_has_no_memory(address: str) -> None:
    """So nobody else's study can be in it."""
    nobody = Plugin(address)
    nobody.upload(volume(50))
    refused(nobody.ask("tumor?"), 400, "http://NAME:API-KEY@host")
    refused(nobody.upload("https://example.org/scan.nii.gz"), 400, "http://NAME:API-KEY@host")


def test_two_users_at_once_never_see_each_others_study(guarded: str, engine: RuleEngine) -> None:
    """Twelve rounds of two users of one key, and two keys with one user name, all at the same time."""
    seats = {
        f"http://alice:{ALPHA}@{guarded}": 0,
        f"http://bob:{ALPHA}@{guarded}": 60,
        f"http://alice:{BETA}@{guarded}": 120,
    }
    wrong: list[str] = []

    def use(address: str, level: int) -> None:
        plugin = Plugin(address)
        for round_index in range(12):
            if round_index % 3 == 0:
                plugin.upload(volume(level))
            response = plugin.ask(f"tumor at {level}?")
            if response.status_code not in {200, 429}:
                wrong.append(response.text)

    users = [threading.Thread(target=use, args=seat) for seat in seats.items()]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert wrong == []
    seen: dict[str, set[int]] = {}
    for messages in engine.seen:
        if messages[-1].images and "tumor at" in messages[0].text:
            level = messages[0].text.rpartition("tumor at ")[2].partition("?")[0]
            seen.setdefault(level, set()).update(picture_sums(messages[:1]))
    assert set(seen) == {"0", "60", "120"}
    assert all(len(sums) == 1 for sums in seen.values())
    assert len(set().union(*seen.values())) == 3


def test_keys_are_needed_where_there_are_keys(guarded: str) -> None:
    for wrong in (f"http://{guarded}", f"http://alice@{guarded}", f"http://alice:wrong@{guarded}"):
        assert requests.get(f"{wrong}/info/", timeout=60).status_code == 401
    assert "VILA-M3" in Plugin(f"http://alice:{ALPHA}@{guarded}").info()


def test_wrong_calls_are_refused_in_the_one_shape(client: TestClient, png: bytes) -> None:
    def post(path: str, **more: Any) -> Any:  # noqa: ANN401 - of the test client
        return client.post(path, **more)

    refused(post("/upload/"), 400, "file")
    refused(post("/upload/", files={"file": (None, "scan.nii.gz")}), 400, "neither a file nor an address")
    refused(post("/upload/", files={"file": ("a.dcm", b"no image")}), 400, ".dcm")
    refused(post("/v1/chat/completions/?Prompt=x&stream=true"), 400, "stream")
    refused(post("/v1/chat/completions/?Prompt=x", headers={"Authorization": "Basic ?"}), 400, "Authorization")
    asked = {"messages": [{"role": "user", "content": "hello"}]}
    assert post("/v1/chat/completions/", json=asked).json()["object"] == "chat.completion"
    assert post("/v1/chat/completions/?Prompt=x", files={"file": ("a.png", png)}).status_code == 200
