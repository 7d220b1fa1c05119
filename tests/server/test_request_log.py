"""Whatever an application raises becomes one answer and a bounded piece of log."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from quire.server.request_log import RequestLog, printable


def recursion() -> RecursionError:
    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        return error
    raise AssertionError


ERRORS = [
    ValueError("x" * 1_000_000),
    ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")] * 100)]),
    recursion(),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    MemoryError(),
]


async def ask(error: Exception) -> tuple[httpx.Response, Counter[int]]:
    """What a client gets from an application that raises `error`, and the answers counted by status."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    counts: Counter[int] = Counter()
    transport = httpx.ASGITransport(RequestLog(app, counts))
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        return await client.get("/v1/models"), counts


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_before_the_answer_begins(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "quire"):
        response, counts = asyncio.run(ask(error))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "InternalServerError"
    assert counts == {500: 1}
    assert 100 < len(caplog.text) < 10_000
    assert caplog.text.count('"GET /v1/models"') == 2  # the failure, and the line of each request


def test_text_of_clients_is_one_bounded_line() -> None:
    text = printable("a\nb\r\x1b[31m\u2028\ud800" + "x" * 10_000, 100)
    assert text.isprintable()
    assert len(text) < 300
    assert printable("/v1/models", 100) == "/v1/models"
