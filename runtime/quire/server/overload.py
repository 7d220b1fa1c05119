"""What a full server says: 503 and when to come again, at once and without reading the request."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.authentication import OPEN_PATHS
from quire.server.errors import error_response

RETRY_AFTER_S = 1


class RequestLimit:
    """Lets `max_requests` POST requests run or wait at once, and refuses the others."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app, self._max_requests, self._num_requests = app, max_requests, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if self._num_requests >= self._max_requests:
            await full(f"{self._max_requests} requests are running and waiting")(scope, receive, send)
            return
        self._num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_requests -= 1


class TooManyConnections:
    """The application of a connection above the limit: it answers about the server's state only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        else:
            await full("all its connections are in use", close=True)(scope, receive, send)


def full(because: str, *, close: bool = False) -> ASGIApp:
    """The answer of a server that takes no more."""
    headers = {"Retry-After": str(RETRY_AFTER_S), **({"Connection": "close"} if close else {})}
    return error_response(
        503, f"the server is full\n  because: {because}\n  hint: the request again, later", headers=headers
    )
