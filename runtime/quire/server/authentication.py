"""API keys, as plain ASGI middleware (so that streams and disconnects pass through untouched)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.errors import error_body

OPEN_PATHS = ("/health", "/ping", "/version", "/metrics")
"""Paths that need no API key."""


class ApiKeyMiddleware:
    """Refuses requests without one of the keys in `Authorization: Bearer KEY` (401)."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._api_keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS" or self._knows(scope):
            await self._app(scope, receive, send)
            return
        body = error_body("the API key is missing or wrong; send 'Authorization: Bearer KEY'",
                          kind="AuthenticationError", code=401)
        await JSONResponse(body, 401)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = key.encode("latin-1")  # the header's own bytes
        matches = [secrets.compare_digest(given, known) for known in self._api_keys]
        return scheme.lower() == "bearer" and any(matches)
