"""The routes by which results leave in the forms that other systems take."""

from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from serving.caller import Served, Tenant

router = APIRouter(default_response_class=JSONResponse)
DICOM = "application/dicom"


@router.get("/v1/results/{answer_id}/segmentations/{number}.dcm", response_class=Response)
async def segmentation(
    answer_id: str, number: int, service: Served, tenant: Tenant, form: Literal["labelmap", "binary"] = "labelmap"
) -> Response:
    """An expert's segmentation as DICOM SEG on the images it was made from."""
    work = partial(service.exports.segmentation, tenant, answer_id, number, form=form.upper())
    content: bytes = await service.read(work)
    return Response(content, media_type=DICOM)


@router.get("/v1/results/{answer_id}/report.json")
async def report(answer_id: str, service: Served, tenant: Tenant) -> dict[str, Any]:
    """An answer with everything measured about it."""
    return await service.read(partial(service.exports.report, tenant, answer_id))


@router.post("/v1/results/{answer_id}/stow")
async def stow(answer_id: str, service: Served, tenant: Tenant) -> dict[str, Any]:
    """Store an answer's segmentations in the configured PACS."""
    stored = await service.fetch(partial(service.exports.stow, tenant, answer_id))
    return {"id": answer_id, "object": "stow", "stored": stored}
