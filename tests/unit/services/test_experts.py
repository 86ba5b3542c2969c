"""Experts elsewhere: what they find arrives whole, and what goes wrong is a sentence for the model and the reader."""

import asyncio
import gzip
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from serving import sse
from tests.unit.serving.live import free_port, live
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import Cancelled, ExpertError, UserError
from vilam3.experts.protocol import ExpertCall, LabelMap, Provenance
from vilam3.experts.registry import until
from vilam3.objects import FolderStore
from vilam3.services.experts import RemoteExperts
from vilam3.services.findings import Finding
from vilam3.services.visit import Waits
from vilam3.shelf import Shelf

CALL = ExpertCall(expert="VISTA3D", argument="hepatic tumor")
QUICK = Waits(warmup_s=0.5, total_s=2.0)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(FolderStore(tmp_path / "store"))


@pytest.fixture
def study(shelf: Shelf) -> Study:
    volume = Volume(voxels_XYZ=np.zeros((4, 5, 3), np.float32), affine_RAS=np.diag([2.0, 2.0, 3.0, 1.0]))
    return shelf.put("ward", study_of(modality="CT", volumes=(volume,)))


def finding(study: Study, **changed: object) -> dict[str, Any]:
    origin = Provenance(
        expert="VISTA3D",
        version="1",
        weights_digest="0" * 64,
        argument="hepatic tumor",
        study_digest=study.digest,
        series="series-1",
        slice_index=1,
        seconds=0.1,
        created_at="2020-01-01T00:00:00Z",
    )
    found = Finding(text="red: hepatic tumor. ", provenance=origin, colors={"red": "hepatic tumor"})
    return {**found.model_dump(mode="json"), **changed}


def answering(answer: Callable[[dict[str, Any]], object]) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/models/vista3d:predict")
    def predict(body: dict[str, Any]) -> object:
        return answer(body)

    return app


def experts_at(url: str) -> RemoteExperts:
    return RemoteExperts({"VISTA3D": url}, waits=QUICK)


def test_the_question_goes_by_reference_and_the_finding_comes_back(study: Study) -> None:
    asked: list[Any] = []

    def answer(body: dict[str, Any]) -> object:
        asked.extend(body["instances"])
        return {"predictions": [finding(study)]}

    with live(answering(answer)) as url:
        result = experts_at(url).speaking("training").run(CALL, study, slice_index=1)
    assert asked == [
        {
            "study": study.reference,
            "study_digest": study.digest,
            "argument": "hepatic tumor",
            "slice_index": 1,
            "points": [],
            "modality": "CT",
            "dialect": "training",
        }
    ]
    assert (result.text, result.provenance.study_digest) == ("red: hepatic tumor. ", study.digest)


def test_an_expert_that_is_not_up_is_waited_for(study: Study) -> None:
    port = free_port()
    results: list[Any] = []
    experts = RemoteExperts({"VISTA3D": f"http://127.0.0.1:{port}"}, waits=Waits(warmup_s=20, total_s=20))
    asking = threading.Thread(target=lambda: results.append(experts.run(CALL, study)))
    asking.start()
    time.sleep(0.3)
    with live(answering(lambda _: {"predictions": [finding(study)]}), port=port):
        asking.join(15)
    assert results[0].text == "red: hepatic tumor. "


def test_an_expert_whose_places_are_taken_is_asked_again(study: Study) -> None:
    tries: list[int] = []

    def answer(_: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            return JSONResponse({"error": {"message": "busy"}}, status_code=429, headers={"Retry-After": "0"})
        return {"predictions": [finding(study)]}

    with live(answering(answer)) as url:
        assert experts_at(url).run(CALL, study).text
    assert len(tries) == 3


@pytest.fixture(params=["absent", "busy", "slow", "broken", "refusing", "babbling", "other study", "other mask"])
def failing(request: pytest.FixtureRequest, study: Study) -> Iterator[tuple[str, str]]:
    """An address, and what is said about it."""
    error = {"error": {"message": "the pancreas is outside the field of view.", "code": "expert_error"}}
    cases: dict[str, tuple[Callable[[Any], object], str]] = {
        "busy": (lambda _: JSONResponse({"error": "full"}, status_code=503), "did not take the question within 0.5 s"),
        "slow": (lambda _: time.sleep(3), "did not finish within 2 s"),
        "broken": (lambda _: JSONResponse({"error": "out of memory"}, status_code=500), "its service failed"),
        "refusing": (lambda _: JSONResponse(error, status_code=400), "outside the field of view"),
        "babbling": (lambda _: {"predictions": ["?"]}, "is not understood"),
        "other study": (
            lambda _: {"predictions": [finding(study, provenance=_origin(study, study_digest="f" * 64))]},
            "looked at another study",
        ),
        "other mask": (
            lambda _: {"predictions": [finding(study, mask=study.reference.replace("study-", "study-0") + "/m.nii")]},
            "segmentation of another study",
        ),
    }
    if request.param == "absent":
        yield f"http://127.0.0.1:{free_port()}", "did not take the question within 0.5 s"
        return
    answer, words = cases[request.param]
    with live(answering(answer)) as url:
        yield url, words


def _origin(study: Study, **changed: object) -> dict[str, Any]:
    origin: dict[str, Any] = finding(study)["provenance"]
    return {**origin, **changed}


def test_what_goes_wrong_is_said_in_a_sentence(failing: tuple[str, str], study: Study) -> None:
    url, words = failing
    with pytest.raises(ExpertError, match=words) as said:
        experts_at(url).run(CALL, study)
    assert "\n" not in str(said.value)


def test_nobody_waits_for_one_who_has_left(study: Study) -> None:
    left, began = threading.Event(), time.monotonic()
    threading.Timer(0.2, left.set).start()
    with live(answering(lambda _: time.sleep(1.5))) as url:
        with pytest.raises(Cancelled, match="gone"):
            experts_at(url).run(CALL, study, watch=until(left))
        assert time.monotonic() - began < 1.2


def streaming(*events: tuple[str, object], pause_s: float = 0.0) -> FastAPI:
    """An expert that tells its progress; after the last event it falls silent for `pause_s`."""
    app = FastAPI()

    @app.post("/v1/models/vista3d:predict")
    async def predict(request: Request) -> StreamingResponse:
        assert request.headers["accept"] == "text/event-stream"

        async def lines() -> AsyncIterator[str]:
            for event, value in events:
                yield sse.data(value, event=event)
                await asyncio.sleep(0.12)
            try:
                await asyncio.sleep(pause_s)
            finally:
                app.state.ended = time.monotonic()

        return sse.response(lines())

    return app


def test_progress_is_passed_on_while_an_expert_computes(study: Study) -> None:
    events = [("progress", {"fraction": 0.25}), ("progress", {"fraction": 0.75})]
    told: list[float] = []
    with live(streaming(*events, ("result", {"predictions": [finding(study)]}))) as url:
        assert experts_at(url).run(CALL, study, watch=told.append).text == "red: hepatic tumor. "
    assert list(dict.fromkeys(told)) == [0.0, 0.25, 0.75]


def test_one_who_leaves_closes_the_stream_of_the_expert(study: Study) -> None:
    app, left = streaming(("progress", {"fraction": 0.1}), pause_s=20), threading.Event()
    with live(app) as url:
        threading.Timer(0.4, left.set).start()
        with pytest.raises(Cancelled):
            experts_at(url).run(CALL, study, watch=until(left))
        gone = time.monotonic()
        while not hasattr(app.state, "ended"):
            assert time.monotonic() - gone < 1.0, "the expert goes on"
            time.sleep(0.01)


def test_an_error_within_a_stream_is_the_error(study: Study) -> None:
    refused = {"error": {"message": "the pancreas is outside the field of view.", "type": "invalid_request_error"}}
    broken = {"error": {"message": "out of memory", "type": "server_error"}}
    for value, words in ((refused, "^the pancreas"), (broken, r"its service failed \(out of memory\)")):
        with live(streaming(("error", value))) as url, pytest.raises(ExpertError, match=words):
            experts_at(url).run(CALL, study)
    with live(streaming(("progress", {"fraction": 0.5}))) as url, pytest.raises(ExpertError, match="broke off"):
        experts_at(url).run(CALL, study)


def test_an_unknown_expert_and_a_study_nobody_else_can_see_are_refused(study: Study) -> None:
    experts = experts_at("http://127.0.0.1:9")
    with pytest.raises(ExpertError, match="available are VISTA3D"):
        experts.run(ExpertCall(expert="BRATS"), study)
    with pytest.raises(ExpertError, match="upload it first"):
        experts.run(CALL, study_of(modality="CT"))


def test_an_added_expert_shows_its_card_and_a_published_one_need_not_be_up() -> None:
    app = FastAPI()

    @app.get("/v1/models/denoise")
    def card() -> dict[str, Any]:
        return {"name": "DENOISE", "arguments": ["low dose"], "card": "<DENOISE(args)> Modality: CT"}

    with live(app) as url:
        experts = RemoteExperts({"CXR": "http://127.0.0.1:9", "DENOISE": url}, waits=QUICK)
    assert experts.names == ("CXR", "DENOISE")
    assert "<DENOISE(args)> Modality: CT\nGive the model" in experts.cards()
    assert experts.grammar().parse("<DENOISE(low dose)>") == (ExpertCall(expert="DENOISE", argument="low dose"),)
    with pytest.raises(UserError, match="does not show its card"):
        RemoteExperts({"DENOISE": f"http://127.0.0.1:{free_port()}"}, waits=Waits(warmup_s=0.1))


def test_a_segmentation_lies_beside_its_study_on_the_grid_it_was_sent_in(shelf: Shelf) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    volume = Volume(voxels_XYZ=np.zeros((4, 5, 3), np.float32), affine_RAS=affine, stored_axes="LPS")
    kept = shelf.put("ward", study_of(modality="CT", volumes=(volume,)))
    ids = np.zeros((4, 5, 3), np.uint8)
    ids[0, 0, 0] = 26
    key = shelf.put_mask(kept, LabelMap(ids_XYZ=ids, affine_RAS=volume.affine_RAS, names={26: "hepatic tumor"}))
    assert key.startswith(f"{kept.reference}/masks/")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(shelf.objects.get(key)))
    assert np.argwhere(np.asarray(image.dataobj)).tolist() == [[3, 4, 0]]
