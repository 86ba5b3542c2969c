"""One expert as a service: progress, callers who leave, points, warm-up, and KServe's V2 over gRPC."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving.expert import ExpertService, Paced
from serving.expert import install as install_expert
from serving.grpc import GrpcServer
from serving.models import ExpertModel
from serving.roles import expert_part
from serving.tenants import Tenants
from tests.unit.serving.live import free_port, live
from vilam3.data.sample import Modality
from vilam3.data.study import Study, Volume, study_of
from vilam3.errors import Cancelled, CheckpointError, ExpertError
from vilam3.experts.findings import Origin
from vilam3.experts.protocol import ExpertResult, Point, Watch, unwatched
from vilam3.experts.registry import Registry
from vilam3.objects import FolderStore
from vilam3.shelf import Shelf

STEP_S = 0.01


class Stepwise:
    """An expert that works in steps; counts them."""

    name = "STEPS"
    modality: Modality = "CT"
    card = "<STEPS(args)> Modality: CT, Valid args are: '5', or '3000'"
    arguments: tuple[str, ...] = ("5", "3000", "none")

    def __init__(self) -> None:
        """Nothing done yet."""
        self.done = 0
        self.stopped = threading.Event()
        self.pointed: list[Point] = []
        self.damaged = False

    def run(
        self,
        study: Study,
        argument: str = "",
        *,
        slice_index: int | None = None,
        points: Sequence[Point] = (),
        watch: Watch = unwatched,
    ) -> ExpertResult:
        """Take so many steps."""
        if argument == "none":
            raise ExpertError("there is nothing to step on.")
        self.pointed += points
        try:
            for step in range(int(argument)):
                watch(step / int(argument))
                time.sleep(STEP_S)
                self.done += 1
        except Cancelled:
            self.stopped.set()
            raise
        origin = Origin(expert=self.name, version="1", weights_digest="0", argument=argument)
        return ExpertResult(text=f"took {argument} steps", provenance=origin.provenance(study, slice_index=slice_index))

    def warm_up(self) -> None:
        """Fails where weights are damaged."""
        if self.damaged:
            raise CheckpointError("weights: damaged; download them again")
        self.done += 1


@pytest.fixture
def expert() -> Stepwise:
    return Stepwise()


@pytest.fixture
def service(expert: Stepwise, tmp_path: Path) -> Iterator[ExpertService]:
    made = ExpertService(
        name="STEPS",
        opened=lambda _: Registry([expert]),
        shelf=Shelf(FolderStore(tmp_path)),
        tenants=Tenants(),
    )
    yield made
    made.close()


@pytest.fixture
def app(service: ExpertService) -> FastAPI:
    """The routes on a plain application, where nothing else answers ``:predict``."""
    application = FastAPI()
    expert_part(service).install(application)
    return application


@pytest.fixture
def study(service: ExpertService) -> Study:
    voxels = np.zeros((4, 4, 3), dtype=np.float32)
    return service.shelf.put(
        "local", study_of(modality="CT", volumes=[Volume(voxels_XYZ=voxels, affine_RAS=np.eye(4))])
    )


def asked(study: Study, argument: str, **more: object) -> dict[str, Any]:
    return {"instances": [{"study": study.reference, "argument": argument, **more}]}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Kind and content of each event."""
    told = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in told]


EVENTS = {"Accept": "text/event-stream"}


def test_progress_is_streamed_and_the_result_is_the_ordinary_one(app: FastAPI, study: Study) -> None:
    with live(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        told = events(client.post("/v1/models/steps:predict", json=asked(study, "60"), headers=EVENTS).text)
        one_of_two = {"instances": [*asked(study, "5")["instances"], *asked(study, "5")["instances"]]}
        both = events(client.post("/v1/models/steps:predict", json=one_of_two, headers=EVENTS).text)
    kinds = [kind for kind, _ in told]
    assert kinds[-1] == "result"
    assert 2 <= kinds.count("progress") <= 60 * STEP_S / 0.25 + 3, "at most four a second"
    fractions = [data["fraction"] for kind, data in told if kind == "progress"]
    assert fractions == sorted(fractions)
    assert told[-1][1]["predictions"][0]["text"] == "took 60 steps"
    assert len(both[-1][1]["predictions"]) == 2


def test_closing_the_connection_stops_the_expert_within_a_second(
    app: FastAPI, study: Study, expert: Stepwise, service: ExpertService
) -> None:
    with live(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        with client.stream("POST", "/v1/models/steps:predict", json=asked(study, "3000"), headers=EVENTS) as response:
            next(response.iter_lines())
        left_at = time.monotonic()
        assert expert.stopped.wait(10)
        assert time.monotonic() - left_at < 1.0
        assert expert.done < 3000
        end = time.monotonic() + 5
        while service.calls.in_flight:
            assert time.monotonic() < end, "the place was not given back"
            time.sleep(0.01)


def test_a_refusal_is_an_event_with_the_ordinary_error(app: FastAPI, study: Study) -> None:
    with TestClient(app) as client:
        told = client.post("/v1/models/steps:predict", json=asked(study, "none"), headers=EVENTS).text
        kind, error = events(told)[-1]
        assert kind == "error"
        assert error["error"]["code"] == "expert_error"
        assert "nothing to step on" in error["error"]["message"]
        unknown = client.post("/v1/models/other:predict", json=asked(study, "5"), headers=EVENTS)
        assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
        empty = client.post("/v1/models/steps:predict", json={"instances": []}, headers=EVENTS)
        assert empty.status_code == 400


def test_without_the_header_the_route_is_left_to_kserve(app: FastAPI, study: Study) -> None:
    with TestClient(app) as client:
        left = client.post("/v1/models/steps:predict", json=asked(study, "5"))
        assert left.status_code == 405, "only the card's route knows the address, and that for GET"


def test_points_travel_beside_the_argument(app: FastAPI, study: Study, expert: Stepwise) -> None:
    points = [{"xyz_mm": [1, 2, 0.5], "label": "liver"}, {"xyz_mm": [0, 0, 0], "label": "liver", "positive": False}]
    with TestClient(app) as client:
        body = asked(study, "5", points=points)
        assert events(client.post("/v1/models/steps:predict", json=body, headers=EVENTS).text)[-1][0] == "result"
        wrong = asked(study, "5", points=[{"xyz_mm": [1, 2], "label": "liver"}])
        assert client.post("/v1/models/steps:predict", json=wrong, headers=EVENTS).status_code == 400
    assert expert.pointed == [
        Point(xyz_mm=(1, 2, 0.5), label="liver"),
        Point(xyz_mm=(0, 0, 0), label="liver", positive=False),
    ]


def test_an_expert_is_ready_when_it_has_run_once(service: ExpertService, expert: Stepwise) -> None:
    application = FastAPI()
    install_expert(application, service)
    service.lacking = "the expert is loading its weights"
    with TestClient(application) as client:
        assert client.get("/v1/models/steps").json()["ready"] is False
        service.warm_up()
        assert expert.done == 1
        assert client.get("/v1/models/steps").json()["ready"] is True
        expert.damaged = True
        service.warm_up()
        assert service.lacking == "the expert cannot be used: weights: damaged; download them again"


def test_progress_is_not_told_more_often_than_anybody_reads() -> None:
    told: list[float] = []
    paced, began = Paced(told.append), time.monotonic()
    while time.monotonic() - began < 0.6:
        paced(0.5)
    assert 2 <= len(told) <= 3


def test_the_same_expert_answers_over_grpc(service: ExpertService, study: Study, expert: Stepwise) -> None:
    """KServe's own client against the service, its metadata, its errors, and a caller who leaves."""
    asyncio.run(_over_grpc(service, study, expert))


async def _over_grpc(service: ExpertService, study: Study, expert: Stepwise) -> None:
    from kserve import (  # noqa: PLC0415 - see serving.framework, which is imported first
        InferenceGRPCClient,
        InferInput,
        InferRequest,
        ModelRepository,
    )
    from kserve.protocol.dataplane import DataPlane  # noqa: PLC0415 - likewise
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension  # noqa: PLC0415 - likewise

    repository = ModelRepository()
    repository.update(ExpertModel(service))
    plane = DataPlane(repository)
    address = f"127.0.0.1:{free_port()}"
    server = GrpcServer(address, data_plane=plane, repository=ModelRepositoryExtension(repository))
    running = asyncio.ensure_future(server.run())
    client = InferenceGRPCClient(address)

    def request(argument: str) -> InferRequest:
        given = {"study": study.reference, "argument": argument, "points": '[{"xyz_mm": [1, 1, 1], "label": "liver"}]'}
        inputs = []
        for name, value in given.items():
            tensor = InferInput(name=name, shape=[1], datatype="BYTES")
            tensor.set_data_from_numpy(np.array([value.encode()], dtype=np.object_), binary_data=False)
            inputs.append(tensor)
        return InferRequest(model_name="steps", infer_inputs=inputs)

    try:
        assert await client.is_model_ready("steps")
        answer = await client.infer(request("5"))
        (finding,) = answer.outputs[0].as_numpy().tolist()
        assert json.loads(finding)["text"] == "took 5 steps"
        assert expert.pointed[-1].label == "liver"
        metadata = await plane.model_metadata("steps")
        assert {tensor["name"] for tensor in metadata["inputs"]} >= {"study", "argument", "points", "slice_index"}
        with pytest.raises(grpc.RpcError) as refused:
            await client.infer(request("none"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "nothing to step on" in refused.value.details()
        leaving = asyncio.ensure_future(client.infer(request("3000")))
        await asyncio.sleep(0.3)
        leaving.cancel()
        assert await asyncio.to_thread(expert.stopped.wait, 5)
    finally:
        await client.close()
        await server.stop(grace_s=0)
        await running
