"""The body of a request: read within limits of size and time, parsed and checked without holding up other requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from quire.errors import RequestError
from quire.field_ranges import shown
from quire.server.body_budget import BodyShare
from quire.server.body_limits import BodyLimits, BodyScanner
from quire.server.errors import ClientDisconnected, HttpError, validation_message
from quire.server.sampling_fields import SamplingFields
from quire.server.unsayable import unsayable_field

PIECE_BYTES = 1 << 14
"""Bytes that are looked at before other requests get their turn: about a millisecond at worst."""

MAX_UNKNOWN_FIELDS = 11
"""Unknown fields that are handed to a schema; it refuses them one by one, with 11 it says 'and more'."""

UTF8_BOM = b"\xef\xbb\xbf"

Schema = TypeVar("Schema", bound=SamplingFields)


async def read_body(request: Request, schema: type[Schema]) -> Schema:
    """The request's JSON body as `schema`, whatever its content type says.

    Raises: RequestError for what is not JSON or not the schema; HttpError 413 for a body above the limits of size,
    as soon as that is known, 503 when others fill the memory for bodies, 408 for one that takes too long, 415 for a
    compressed one; ClientDisconnected.
    """
    limits: BodyLimits = request.app.state.body_limits
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpError(
            415,
            "the body is compressed",
            because="only plain JSON is read",
            hint="the request without Content-Encoding",
        )
    try:
        async with asyncio.timeout(limits.timeout_s):
            with request.app.state.body_budget.share() as share:
                content = await _read(request, limits, share)
    except TimeoutError as error:
        raise HttpError(
            408,
            "the body did not arrive in time",
            because=f"it may take {limits.timeout_s:g} s",
            hint="the request again",
        ) from error
    except ClientDisconnect as error:
        raise ClientDisconnected from error
    return _checked(_decoded(content), schema)


async def _read(request: Request, limits: BodyLimits, share: BodyShare) -> bytes:
    """The bytes, counted as they come."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.max_bytes:
        raise _too_large(limits)
    scanner = BodyScanner(limits)
    content = bytearray()
    async for piece in _pieces(request):
        if len(content) + len(piece) > limits.max_bytes:
            raise _too_large(limits)
        share.take(len(piece))
        content += piece
        scanner.feed(piece)
    return bytes(content.removeprefix(UTF8_BOM))


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
            await asyncio.sleep(0)


def _decoded(content: bytes) -> dict[str, Any]:
    if not content.strip():
        raise RequestError("the body is empty", because="a request is a JSON object", hint='{"prompt": "Hello"}')
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        found = unsayable_field(content)
        if found is not None:
            raise RequestError(
                f"{shown(found[0])} holds {found[1]}",
                because="JSON has no such value",
                hint="a finite number, or text that is valid Unicode",
                param=found[0][:80],
            ) from error
        raise RequestError(f"body: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("body: not a JSON object", because="a request is one", hint='{"prompt": "Hello"}')
    return value


def _checked(value: dict[str, Any], schema: type[Schema]) -> Schema:
    known = {*schema.model_fields, *schema.foreign}
    unknown = [name for name, item in value.items() if name not in known and item is not None]
    for name in unknown[MAX_UNKNOWN_FIELDS:]:
        del value[name]
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        param, message = validation_message(problems, num_left_out=len(unknown[MAX_UNKNOWN_FIELDS:]))
        raise RequestError(message, param=param) from None  # its cause would keep the whole body alive


def _too_large(limits: BodyLimits) -> HttpError:
    return HttpError(
        413,
        "the body is too large",
        because=f"this server takes at most {limits.max_bytes} bytes",
        hint="a shorter request, or --max-body-bytes at the server's start",
    )
