"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from quire.errors import BackendError, QuireError, RequestError

MAX_MESSAGE_CHARS = 4000
MAX_PARAM_CHARS = 200
MAX_PROBLEMS = 10
"""Wrong fields that one answer names."""


class ModelNotFound(RequestError):
    """The request names a model that is not served here (HTTP 404)."""


class HttpError(RequestError):
    """A refusal with a status of its own, such as 413; `retry_after_s` tells the client when to come again."""

    def __init__(
        self, status: int, what: str, *, because: str = "", hint: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(what, because=because, hint=hint)
        self.status, self.retry_after_s = status, retry_after_s


class ClientDisconnected(Exception):
    """The client went away; nobody reads the answer."""


def error_body(message: str, *, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """The JSON body of an error. What clients sent may be in it, so it is bounded and always valid text."""
    if param is not None:
        param = shortened(param, MAX_PARAM_CHARS)
    return {"error": {"message": shortened(message, MAX_MESSAGE_CHARS), "type": kind, "param": param, "code": code}}


def error_response(
    status: int, message: str, *, kind: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a response of its own."""
    return JSONResponse(error_body(message, kind=kind or kind_of(status), code=status), status, headers=headers)


def kind_of(status: int) -> str:
    """The `type` of an error without a name of its own, such as "NotFoundError" for 404."""
    return HTTPStatus(status).phrase.replace(" ", "").replace("-", "").removesuffix("Error") + "Error"


def shortened(text: str, max_chars: int) -> str:
    """The text, or its two ends with the number of characters between them; halves of surrogate pairs escaped."""
    if len(text) > max_chars:
        num_head = max_chars * 3 // 4
        tail = text[len(text) - (max_chars - num_head) :]
        text = f"{text[:num_head]}... ({len(text) - max_chars} characters left out) ...{tail}"
    return text.encode("utf-8", "backslashreplace").decode()


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of an exception; an unknown one is a 500 that does not leak its text."""
    if isinstance(error, ModelNotFound):
        return 404, error_body(str(error), kind="NotFoundError", code=404, param=error.param)
    if isinstance(error, HttpError):
        return error.status, error_body(str(error), kind=kind_of(error.status), code=error.status)
    if isinstance(error, RequestError):
        return 400, error_body(str(error), kind="BadRequestError", code=400, param=error.param)
    if isinstance(error, BackendError):
        return 503, error_body(str(error), kind="ServiceUnavailableError", code=503)
    if isinstance(error, QuireError):
        return 500, error_body(str(error), kind="InternalServerError", code=500)
    return 500, error_body("internal error; the server's log has the details", kind="InternalServerError", code=500)


def install_handlers(app: FastAPI) -> None:
    """Every error of the app leaves in OpenAI's shape."""

    @app.exception_handler(QuireError)
    async def quire_error(_: Request, error: QuireError) -> JSONResponse:
        status, body = error_of(error)
        retry_after_s = getattr(error, "retry_after_s", None)
        return JSONResponse(body, status, None if retry_after_s is None else {"Retry-After": str(retry_after_s)})

    @app.exception_handler(ClientDisconnected)
    async def client_disconnected(_: Request, __: ClientDisconnected) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        body = error_body(str(error.detail), kind=kind_of(error.status_code), code=error.status_code)
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unknown_error(_: Request, error: Exception) -> JSONResponse:
        status, body = error_of(error)  # the traceback goes to the log, since the server raises it again
        return JSONResponse(body, status)


def validation_message(problems: Any, num_left_out: int = 0) -> tuple[str | None, str]:
    """(first wrong field, what is wrong in one line a field) of pydantic's list of problems.

    num_left_out: fields that are wrong as well and not in the list.
    """
    messages: dict[str, list[str]] = {}
    first: str | None = None
    for problem in problems:
        path = problem["loc"]
        field = path[0] if path and isinstance(path[0], str) else None
        first = first if messages else field
        name = field or "body"
        text = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            name, text = ".".join(map(str, path)), "unknown field"
        seen = messages.setdefault(name, [])
        if text not in seen:
            seen.append(text)
    lines = [f"{shortened(name, MAX_PARAM_CHARS)}: {_joined(texts)}" for name, texts in messages.items()]
    num_left_out += max(0, len(lines) - MAX_PROBLEMS)
    return first, "\n".join(lines[:MAX_PROBLEMS] + ([f"and {num_left_out} more"] if num_left_out else []))


def _joined(texts: list[str]) -> str:
    return ", ".join(shortened(text, MAX_PARAM_CHARS) for text in texts[:MAX_PROBLEMS])
