"""What goes wrong, as `{"error": {"message", "type", "param", "code"}}` with the status that says whose fault it is.

The shape is that of OpenAI's interface. The one invariant: a message is one line about what was asked; it has no path,
no trace and no text of another owner.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from everreel.film.request import RequestError
from everreel.serve.jobs.job import (
    BusyError,
    ConflictError,
    DiskFullError,
    EnhancerError,
    JobError,
    LateEnhancerError,
    NotFoundError,
    QuotaError,
)
from everreel.serve.jobs.service import nameless

LONGEST = 600  # characters of a message
NOT_AGAIN = {"x-should-retry": "false"}
"""The openai SDK would ask again after 409, 429 and 5xx, though nothing will have changed."""
log = logging.getLogger(__name__)
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    416: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
    507: "server_error",
}
SAYS = {
    400: "Something is wrong with the request; `param` says what.",
    401: "No key, or a wrong one.",
    403: "This name or this site may not ask.",
    404: "There is no such thing, or it is somebody else's.",
    405: "There is no such method.",
    409: "The film's state does not allow it, or the key of idempotency was used for something else.",
    413: "The body is too large.",
    415: "The body is of a kind that is not read.",
    416: "There are no such bytes.",
    429: "Too many requests, or the owner's quota is used up; see Retry-After.",
    501: "Not served.",
    502: "The language model that makes prompts whole gave no answer that can be used.",
    503: "Too much to do just now; see Retry-After.",
    504: "The language model that makes prompts whole gave no answer in time.",
    507: "The disk is full.",
}


class Problem(BaseModel):
    """What went wrong."""

    message: str = Field(description="One line: the field, the value, the rule, and what works.")
    type: str = Field(description="What kind of error it is.")
    param: str | None = Field(description="The field that is wrong.")
    code: str | None = Field(description="For programs.")


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


class ApiError(Exception):
    """An answer that says why not."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})


def reply(error: ApiError) -> JSONResponse:
    """An error as an answer."""
    problem = {"type": KINDS.get(error.status, "server_error"), "param": error.param, "code": error.code}
    body = {"error": {"message": _short(str(error)), **problem}}
    return JSONResponse(body, error.status, headers=error.headers)


def api_error(error: Exception) -> ApiError:
    """The answer for what the jobs raise."""
    said = nameless(" ".join(str(error).split()))
    param = _field(said)
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, said, param, "invalid_value")
    if isinstance(error, NotFoundError):
        return ApiError(404, said, param, "not_found")
    if isinstance(error, ConflictError):
        return ApiError(409, said, param, "conflict", NOT_AGAIN)
    if isinstance(error, QuotaError):
        return ApiError(429, said, param, "insufficient_quota", {"Retry-After": "60", **NOT_AGAIN})
    if isinstance(error, DiskFullError):
        return ApiError(507, said, None, "disk_full", {"Retry-After": "60", **NOT_AGAIN})
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ApiError(507, "the disk is full; nothing was kept", None, "disk_full", {"Retry-After": "60"})
    if isinstance(error, EnhancerError):  # what it took was tried again already
        late = isinstance(error, LateEnhancerError)
        return ApiError(504 if late else 502, said, param, "enhancer_failed", NOT_AGAIN)
    if isinstance(error, BusyError | TimeoutError):
        return ApiError(503, said, None, "busy", {"Retry-After": "30"})
    if isinstance(error, JobError):
        return ApiError(400, said, param, "invalid_value")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "something went wrong here, not with the request; the server's log says what")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, and those that every route may have, for OpenAPI."""
    found = sorted({400, 401, 403, 404, 405, 413, 415, 429, 503, *statuses})
    return {status: {"model": ErrorBody, "description": SAYS[status]} for status in found}


def add_handlers(app: FastAPI) -> None:
    """Let every error have the one shape."""

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        said = {404: "there is no such address; see /docs", 405: "this address has no such method"}
        message = said.get(error.status_code, str(error.detail))
        return reply(ApiError(error.status_code, message, None, None, error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        rule = str(first["msg"]).removeprefix("Value error, ")
        return reply(ApiError(400, f"{field} = {first.get('input')!r}: {rule[0].lower()}{rule[1:]}", field))

    for kind in (ApiError, RequestError, JobError, OSError):
        app.add_exception_handler(kind, _known)


async def _known(request: Request, error: Exception) -> Response:
    return reply(api_error(error))


def _field(said: str) -> str | None:
    """The field that a message begins with."""
    found = re.match(r"([a-z_]+(?:\[[^\]]{1,20}\])?)(?: = |:| is empty)", said)
    return found[1] if found else None


def _short(said: str) -> str:
    said = " ".join(said.encode("utf-8", "replace").decode().split())
    return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
