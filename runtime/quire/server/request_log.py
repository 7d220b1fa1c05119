"""One line of log for each request, bounded; and one place where what a request raises ends."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import Counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.server.errors import error_response, shortened

logger = logging.getLogger("quire")

MAX_PATH_CHARS = 200
MAX_TRACEBACK_CHARS = 8000


def printable(text: str, max_chars: int) -> str:
    """Text of a client as it may stand in a log: of bounded length, on one line, without control characters."""
    return shortened(repr(shortened(text, max_chars))[1:-1], 2 * max_chars)


class RequestLog:
    """Outermost of the application: logs each request when its answer ends, and counts answers by status.

    An exception that nobody took becomes a 500 when the answer has not begun, and a closed connection otherwise.
    """

    def __init__(self, app: ASGIApp, num_answers: Counter[int]) -> None:
        self._app, self._num_answers = app, num_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            logger.info("%s was cut off: the server shuts down", _line(scope))
        except Exception as error:  # the outermost boundary: one request's failure is its own
            _log_failure(scope, error)
            if status == 0:
                await error_response(
                    500, "internal error; the server's log has the details", headers={"Connection": "close"}
                )(scope, receive, watched)
        finally:
            self._num_answers[status] += 1
            logger.info("%s %d %.0f ms", _line(scope), status, 1000 * (time.monotonic() - start_s))


def _line(scope: Scope) -> str:
    client: Any = scope.get("client") or ("-",)
    return f'{client[0]} "{scope["method"][:20]} {printable(scope["path"], MAX_PATH_CHARS)}"'


def _log_failure(scope: Scope, error: Exception) -> None:
    trace = "".join(traceback.format_exception(error, limit=-20))
    logger.error("%s failed:\n%s", _line(scope), shortened(trace, MAX_TRACEBACK_CHARS))
