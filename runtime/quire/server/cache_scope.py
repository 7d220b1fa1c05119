"""Who may find whose prefixes: `cached_tokens` tells a client whether somebody sent the same text before.

The blocks of a request are found again only with the same salt. A salt per client, or per request, so keeps what one
client sends from the others.
"""

from __future__ import annotations

import hashlib
import secrets

from fastapi import Request

from quire.server.authentication import CLIENT
from quire.server.config import PrefixCacheScope
from quire.server.sampling_fields import SamplingFields


class CacheScope:
    """The salt of each request, of a given scope; None = `key` with several keys, else `global`."""

    def __init__(self, scope: PrefixCacheScope | None, num_keys: int) -> None:
        self.scope: PrefixCacheScope = scope or ("key" if num_keys > 1 else "global")
        self._secret = secrets.token_bytes(32)

    def salt(self, client: bytes | None, own: str | None) -> str | None:
        """The salt of a request of `client`, a digest of its key, that brings a salt of its own."""
        if self.scope == "global":
            return own
        origin = client or b"" if self.scope == "key" else secrets.token_bytes(16)
        digest = hashlib.blake2b(origin, key=self._secret, digest_size=32)
        digest.update(b"" if own is None else b"\0" + own.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def set_cache_salt(request: Request, body: SamplingFields) -> None:
    """Puts the salt of the server's scope in place of the body's own."""
    scope: CacheScope = request.app.state.cache_scope
    body.cache_salt = scope.salt(request.scope.get(CLIENT), body.cache_salt)
