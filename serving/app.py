"""The routes. Each finds the tenant, lets a thread do the work, and answers in OpenAI's shapes."""

import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, BinaryIO, get_args

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import FormData, UploadFile

from serving import cards, chat_page, export_routes, guard, radcopilot, refusals, sse, stream
from serving.answer import Service
from serving.caller import Served, Tenant
from serving.completion import completion
from serving.results import REPLAY
from serving.studies import Upload
from serving.wire import ChatRequest, StudyElsewhere, StudyInfo
from vilam3.consultant import with_modality
from vilam3.data.render import views
from vilam3.data.sample import Modality
from vilam3.errors import DataError, TooLargeError

MOST_FILES = 5_000
MOST_FIELDS = 16
MOST_JSON_BYTES = 1 << 16
PIECE_BYTES = 1 << 18

router = APIRouter(default_response_class=JSONResponse)


def install(app: FastAPI, service: Service) -> None:
    """Put the routes, the error shape and the guards on an application, before its own routes."""
    app.state.vilam3 = service
    cards.install(app, service)
    app.include_router(router)
    app.include_router(export_routes.router)
    app.include_router(radcopilot.router)
    chat_page.install(app)
    refusals.install(app)
    guard.install(app)


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, request: Request, service: Served, tenant: Tenant) -> Response:
    """Answer a question, streamed or whole."""
    inquiry = await service.inquire(body, tenant=tenant)
    running = service.begin(inquiry, tenant=tenant)
    if not body.stream:
        return JSONResponse(completion(await running.answered(gone=request.is_disconnected)))
    lines: AsyncIterator[str] = stream.events(
        running,
        gone=request.is_disconnected,
        holds_back=bool(inquiry.asking.cards),
        include_usage=body.with_usage,
    )
    return sse.response(lines)


@router.post("/v1/studies", status_code=201)
async def upload(request: Request, service: Served, tenant: Tenant) -> StudyInfo:
    """Take DICOM files, a zip, NIfTI files or a picture as multipart/form-data, with an optional `modality` field.

    As JSON, ``{"urls": [...]}`` names images elsewhere instead.
    """
    if request.headers.get("content-type", "").startswith("application/json"):
        return await _fetched(StudyElsewhere.model_validate_json(await _small_body(request)), service, tenant)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise DataError("upload: not multipart/form-data; send the files as form fields, such as -F file=@scan.dcm")
    async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [Upload(name=file.filename or "file", open=partial(_Lent, file)) for file in files]
        work = partial(service.studies.add, tenant, uploads, modality=_modality(form))
        return await service.read(work)


async def _small_body(request: Request) -> bytes:
    """A body of JSON, on a route that takes far larger ones of files."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_JSON_BYTES:
            raise TooLargeError(f"urls: more than {MOST_JSON_BYTES >> 10} KiB; name fewer images")
    return body


async def _fetched(named: StudyElsewhere, service: Service, tenant: str) -> StudyInfo:
    def work() -> StudyInfo:
        found = service.studies.attached(named.urls, modality=named.modality, part="url")
        return service.studies.enlist(tenant, with_modality(found, named.modality, question=""))

    return await service.fetch(work)


@router.get("/v1/studies")
async def studies(service: Served, tenant: Tenant) -> dict[str, Any]:
    """The caller's own studies, the one used last first."""
    return {"object": "list", "data": await service.read(partial(service.studies.recent, tenant))}


@router.get("/v1/studies/{study_id}")
async def study(study_id: str, service: Served, tenant: Tenant) -> StudyInfo:
    """What is known of a study."""
    return await service.read(partial(service.studies.info, tenant, study_id))


@router.get("/v1/studies/{study_id}/study.zip", response_class=Response)
async def packed(study_id: str, service: Served, tenant: Tenant) -> Response:
    """The study as it is kept: pixels and geometry without the headers of its files."""
    content = await service.read(partial(service.studies.packed, tenant, study_id))
    return Response(content, media_type="application/zip")


@router.delete("/v1/studies/{study_id}")
async def forget(study_id: str, service: Served, tenant: Tenant) -> dict[str, Any]:
    """Forget a study and remove its files."""
    await service.read(partial(service.studies.delete, tenant, study_id))
    return {"id": study_id, "object": "study", "deleted": True}


@router.get("/v1/studies/{study_id}/slices/{index}.png", response_class=Response)
async def slice_png(study_id: str, index: int, service: Served, tenant: Tenant, view: int = 0) -> Response:
    """One axial slice as the model sees it; `view` chooses the MR sequence."""
    return Response(
        await service.read(partial(_picture, service, tenant, study_id, index, view)), media_type="image/png"
    )


@router.get("/v1/studies/{study_id}/volumes/{number}.nii.gz", response_class=Response)
async def volume(study_id: str, number: int, service: Served, tenant: Tenant) -> Response:
    """A volume with its geometry and the window that the model sees; nothing of the patient is in the file."""
    file = await service.read(partial(service.studies.volume, tenant, study_id, number))
    size = {"Content-Length": str(os.fstat(file.fileno()).st_size)}
    return StreamingResponse(_pieces(file), media_type="application/gzip", headers=size)


@router.get("/v1/results/{answer_id}", response_class=Response)
async def result(answer_id: str, service: Served, tenant: Tenant) -> Response:
    """A kept answer with its provenance."""
    return await _kept(service, tenant, answer_id, "answer.json", "application/json")


@router.get("/v1/results/{answer_id}/replay.json", response_class=Response)
async def replay(answer_id: str, service: Served, tenant: Tenant) -> Response:
    """What is needed to ask for an answer again: the request, its studies by reference."""
    return await _kept(service, tenant, answer_id, REPLAY, "application/json")


@router.get("/v1/results/{answer_id}/overlays/{number}.png", response_class=Response)
async def overlay(answer_id: str, number: int, service: Served, tenant: Tenant) -> Response:
    """The picture with an expert's finding drawn in."""
    return await _kept(service, tenant, answer_id, f"overlay-{number}.png", "image/png")


@router.get("/v1/results/{answer_id}/masks/{number}.nii.gz", response_class=Response)
async def mask(answer_id: str, number: int, service: Served, tenant: Tenant) -> Response:
    """An expert's segmentation, on the grid the study was sent in."""
    return await _kept(service, tenant, answer_id, f"mask-{number}.nii.gz", "application/gzip")


async def _kept(service: Service, tenant: str, answer_id: str, name: str, kind: str) -> Response:
    content = await service.read(partial(service.results.get, tenant, answer_id, name))
    return Response(content, media_type=kind)


class _Lent(AbstractContextManager[BinaryIO]):
    """A received file, read from its beginning and left open: the form closes it."""

    def __init__(self, received: UploadFile) -> None:
        self._file: BinaryIO = received.file

    def __enter__(self) -> BinaryIO:
        self._file.seek(0)
        return self._file

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _modality(form: FormData) -> Modality | None:
    value = form.get("modality")
    if value is None or value == "":
        return None
    known: tuple[Modality, ...] = get_args(Modality)
    for candidate in known:
        if candidate == value:
            return candidate
    raise DataError(f"modality: not one of {', '.join(known)}; correct it or leave it out")


def _picture(service: Service, tenant: str, study_id: str, index: int, view: int) -> bytes:
    pictures = views(service.studies.get(tenant, study_id), slice_index=index)
    if not 0 <= view < len(pictures):
        raise DataError(f"view {view}: the study has {len(pictures)}; choose 0 to {len(pictures) - 1}")
    stream_out = io.BytesIO()
    pictures[view].save(stream_out, format="PNG")
    return stream_out.getvalue()
