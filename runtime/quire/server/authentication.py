"""API keys, as plain ASGI middleware (so that streams and disconnects pass through untouched)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.errors import error_response

OPEN_PATHS = ("/health", "/ping", "/version", "/metrics")
"""Paths that need no API key, and are answered by a server that is full."""

CLIENT = "quire.client"
"""Key of a request's scope: a digest of the API key that it came with."""


class ApiKeyMiddleware:
    """Refuses requests without one of the keys in `Authorization: Bearer KEY` (401)."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._secret = secrets.token_bytes(32)
        self._digests = [self._digest(key.encode("utf-8", "surrogateescape")) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope[CLIENT] = self._client(scope)
        is_open = scope["type"] == "http" and (scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS")
        if is_open or scope[CLIENT] is not None:
            await self._app(scope, receive, send)
            return
        message = "the API key is missing or wrong; send 'Authorization: Bearer KEY'"
        await error_response(401, message, kind="AuthenticationError", headers={"WWW-Authenticate": "Bearer"})(
            scope, receive, send
        )

    def _client(self, scope: Scope) -> bytes | None:
        """The digest of the request's key, or None when it is not one of the server's."""
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = self._digest(key.strip(" \t").encode("latin-1"))  # the header's own bytes
        matches = [secrets.compare_digest(given, known) for known in self._digests]
        return given if scheme.lower() == "bearer" and any(matches) else None

    def _digest(self, key: bytes) -> bytes:
        """Tells keys apart without being one; another one in each process."""
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()
