"""Errors of this endpoint, and the one shape in which every error leaves it: OpenAI's.

A message is one sentence for the caller. Nothing of it is logged: it may quote what the caller sent.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from vilam3.errors import BusyError, UserError, VilaM3Error

TYPES: Mapping[int, str] = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
SERVER_FAULT = 500


class UnauthorizedError(UserError):
    """No key, or one this server does not know."""

    http_status: ClassVar[int] = 401


class GoneError(VilaM3Error):
    """The caller left before the work began; nobody reads this."""

    http_status: ClassVar[int] = 499


class UnsupportedError(UserError):
    """A request that is well formed but asks for what this endpoint does not do."""


def body(error: BaseException) -> dict[str, Any]:
    """The error as OpenAI clients expect it."""
    if isinstance(error, VilaM3Error):
        return _shape(str(error), status=error.http_status, code=_code(error))
    if isinstance(error, ValidationError | RequestValidationError):
        where, sentence = _first_fault(error)
        return _shape(sentence, status=400, code="invalid_value", param=where)
    return _shape("the server failed; its log says where; try again", status=SERVER_FAULT, code="internal_error")


def response(error: BaseException) -> JSONResponse:
    """The HTTP response for an error."""
    if isinstance(error, VilaM3Error):
        status = error.http_status
    else:
        status = 400 if isinstance(error, ValidationError | RequestValidationError) else SERVER_FAULT
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(error), status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Let every route of the application answer errors in this shape."""
    app.add_exception_handler(VilaM3Error, _on_error)
    app.add_exception_handler(RequestValidationError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_error(_request: Request, error: Exception) -> JSONResponse:
    return response(error)


async def _on_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, VilaM3Error):  # FastAPI wraps what was raised while it read a body
        return response(error.__cause__)
    shaped = _shape(f"{error.detail}", status=error.status_code, code="http_error")
    return JSONResponse(shaped, status_code=error.status_code, headers=error.headers)


def _shape(message: str, *, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    fallback = "server_error" if status >= SERVER_FAULT else "invalid_request_error"
    kind = TYPES.get(status, fallback)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _first_fault(error: ValidationError | RequestValidationError) -> tuple[str, str]:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part != "body") or "body"
    what = str(fault["msg"]).removeprefix("Value error, ")
    return where, f"{where}: {what}; correct it and send the request again"


def _code(error: VilaM3Error) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
