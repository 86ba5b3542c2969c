"""The three routes that the RadCoPilot plug-in of 3D Slicer calls, on studies that stay with whoever sent them.

The published server keeps the last file of any caller for the next one. Here a question is about the file that comes
with it, as the plug-in sends it after an upload. Where it comes without one, after an image was named by its URL, it is
about the newest study of the same seat: tenant and user name, both from the address that the plug-in is given,
``http://NAME:API-KEY@host``. Who has no seat has no memory here, and can be given nobody else's study.

Protocol: Project-MONAI/VLM-Radiology-Agent-Framework, plugins/RadCoPilot_Slicer and server-slicer (2025-09).
"""

import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import FormData, UploadFile

from serving.answer import Service
from serving.caller import Served
from serving.completion import Answered
from serving.inquiry import Inquiry, prepare
from serving.refusals import UnsupportedError
from serving.studies import StudyStore, Upload, read_upload
from serving.wire import ChatMessage, ChatRequest
from vilam3.data.study import Study
from vilam3.errors import DataError, NotFoundError
from vilam3.scratch import scratch
from vilam3.shelf import get_json, put_json, tenant_folder
from vilam3.sources.schemes import is_elsewhere

INFO = "VILA-M3 model"  # the plug-in looks for "VILA-M3" in it and then expects `_wrapped` answers
MEMORY_S = 12 * 3600.0
SEAT_LETTERS = 32
MOST_PARTS = 4
_BASIC = "basic "
WITHOUT_SEAT = (
    "address: give the plug-in the server's address with a name of yours, such as http://NAME:API-KEY@host:8080, so "
    "that an image can be kept for you alone"
)

router = APIRouter(default_response_class=JSONResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One user of the plug-in.

    Attributes:
        tenant: Whose key it is.
        name: The user's own; empty where the address holds none.
    """

    tenant: str
    name: str

    @property
    def key(self) -> str:
        """Where the store remembers this user's newest study.

        Raises:
            DataError: the user has not said who they are.
        """
        if not self.name:
            raise DataError(WITHOUT_SEAT)
        digest = hashlib.sha256(f"radcopilot\0{self.name}".encode()).hexdigest()[:SEAT_LETTERS]
        return f"{tenant_folder(self.tenant)}/seats/{digest}.json"


@router.get("/info/")
async def info(request: Request, service: Served) -> str:
    """What the plug-in shows as the model's name."""
    _seat(request, service)
    return INFO


@router.post("/upload/")
async def upload(request: Request, service: Served) -> dict[str, str]:
    """Take a file, or the URL of one, for the questions that follow."""
    seat = _seat(request, service)
    async with _form(request) as form:
        sent = form.get("file")
        if isinstance(sent, UploadFile):
            study = await service.read(partial(_read, service, sent))
            name, status = sent.filename or "file", "File uploaded successfully"
        elif isinstance(sent, str) and is_elsewhere(sent):
            seat.key  # noqa: B018 - refuse before anything is fetched
            study = await service.fetch(partial(_fetch, service, sent))
            name, status = sent, "File path received successfully"
        else:
            raise DataError(
                "upload: neither a file nor an address in the field `file`; choose a volume and send it again"
            )
    if seat.name:
        await service.read(partial(_remember, service.studies, seat, study))
    return {"filename": name, "status": status}


@router.post("/v1/chat/completions/", response_model=None)
async def answer(
    request: Request,
    service: Served,
    Prompt: str | None = None,
    stream: bool = False,  # noqa: FBT002 - as the plug-in calls
) -> Response:
    """Answer a question about the file that comes with it, or about this user's newest study."""
    if Prompt is None:
        return RedirectResponse("/v1/chat/completions", status_code=307)
    if stream:
        raise UnsupportedError("stream: not streamed here; leave it out, or use /v1/chat/completions")
    seat = _seat(request, service)
    async with _form(request) as form:
        sent = form.get("file")
        work = (
            partial(_read, service, sent) if isinstance(sent, UploadFile) else partial(_newest, service.studies, seat)
        )
        study = await service.read(work)
    inquiry = await service.read(partial(_inquiry, service, Prompt, study, seat.tenant))
    answered = await service.begin(inquiry, tenant=seat.tenant).answered(gone=request.is_disconnected)
    return JSONResponse(_wrapped(answered))


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """What was sent as a form with files; anything else is read by nobody, since it would be read into memory."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield FormData()
        return
    async with request.form(max_files=MOST_PARTS, max_fields=MOST_PARTS) as form:
        yield form


def _seat(request: Request, service: Service) -> Seat:
    """Who calls: by Basic authorization, which HTTP libraries make of an address, or by a key alone.

    Raises:
        UnauthorizedError: the key is missing or unknown.
    """
    headers: Mapping[str, str] = request.headers
    given = headers.get("authorization", "")
    if not given.lower().startswith(_BASIC):
        return Seat(tenant=service.tenants.of(headers), name="")
    try:
        name, _, key = base64.b64decode(given[len(_BASIC) :], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise DataError("Authorization: not readable; write the address as http://NAME:API-KEY@host:8080") from error
    return Seat(tenant=service.tenants.of({"authorization": f"Bearer {key}"}), name=name)


def _read(service: Service, sent: UploadFile) -> Study:
    def opened() -> Any:  # noqa: ANN401 - a binary file that the form closes
        sent.file.seek(0)
        return nullcontext(sent.file)

    with scratch() as folder:
        uploads = [Upload(name=sent.filename or "file", open=opened)]
        return read_upload(uploads, folder / "images", limits=service.studies.limits)


def _fetch(service: Service, url: str) -> Study:
    return service.studies.attached([url], part="url")


def _remember(studies: StudyStore, seat: Seat, study: Study) -> None:
    kept = studies.enlist(seat.tenant, study)
    put_json(studies.shelf.objects, seat.key, {"study": kept.id, "created": time.time()})


def _newest(studies: StudyStore, seat: Seat) -> Study:
    try:
        told = get_json(studies.shelf.objects, seat.key)
    except NotFoundError as error:
        raise DataError("study: none was uploaded from this seat; upload an image first") from error
    if time.time() - float(told["created"]) > MEMORY_S:
        raise DataError("study: the one uploaded from this seat is too old; upload the image again")
    return studies.get(seat.tenant, str(told["study"]))


def _inquiry(service: Service, prompt: str, study: Study, tenant: str) -> Inquiry:
    """About the whole volume: the plug-in does not say which slice is looked at."""
    asked = ChatRequest(messages=[ChatMessage(role="user", content=prompt)], scope="volume")
    return prepare(asked, tenant=tenant, studies=service.studies, consultant=service.consultant, named=study)


def _wrapped(answered: Answered) -> dict[str, Any]:
    """The answer where the plug-in looks for it: in a message within the message."""
    inner = {"role": "assistant", "content": [{"type": "text", "text": answered.content}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": inner}, "finish_reason": answered.finish_reason}
    return {
        "id": answered.answer_id,
        "object": "chat.completion",
        "created": answered.created,
        "model": "vila-m3",
        "choices": [choice],
        "usage": answered.usage.model_dump(),
    }
