"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from quire.errors import BackendError, QuireError, RequestError


class ModelNotFound(RequestError):
    """The request names a model that is not served here (HTTP 404)."""


class ClientDisconnected(Exception):
    """The client went away; nobody reads the answer."""


def error_body(message: str, *, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """The JSON body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of an exception; an unknown one is a 500 that does not leak its text."""
    if isinstance(error, ModelNotFound):
        return 404, error_body(str(error), kind="NotFoundError", code=404, param=error.param)
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
        return JSONResponse(body, status)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        param, message = validation_message(error.errors())
        return JSONResponse(error_body(message, kind="BadRequestError", code=400, param=param), 400)

    @app.exception_handler(ClientDisconnected)
    async def client_disconnected(_: Request, __: ClientDisconnected) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        kind = HTTPStatus(error.status_code).phrase.replace(" ", "") + "Error"
        return JSONResponse(error_body(str(error.detail), kind=kind, code=error.status_code), error.status_code,
                            headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unknown_error(_: Request, error: Exception) -> JSONResponse:
        status, body = error_of(error)  # the traceback goes to the log, since the server raises it again
        return JSONResponse(body, status)


def validation_message(problems: Any) -> tuple[str | None, str]:
    """(first wrong field, what is wrong in one line a field) of pydantic's list of problems."""
    messages: dict[str, list[str]] = {}
    first: str | None = None
    for problem in problems:
        path = list(problem["loc"][1:])  # without "body"
        field = path[0] if path and isinstance(path[0], str) else None
        first = first if messages else field
        name = field or "body"
        if problem["type"] == "extra_forbidden":
            name = ".".join(map(str, path))
            text = "unknown field"
        elif problem["type"] == "json_invalid":
            text = f"not JSON: {problem['ctx']['error']}"
        else:
            text = str(problem["msg"]).removeprefix("Value error, ")
        seen = messages.setdefault(name, [])
        if text not in seen:
            seen.append(text)
    return first, "\n".join(f"{name}: {', or '.join(texts)}" for name, texts in messages.items())
