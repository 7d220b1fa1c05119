"""How many bytes of bodies all requests together may hold while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quire.server.errors import HttpError

BODIES_AT_ONCE = 32
"""Bodies of the largest size that may arrive at the same time; smaller ones in proportion."""

SMALL_BODIES = 64
"""The first part of a body, one in so many of the largest size, is free: large bodies do not keep small ones out."""


class BodyBudget:
    """Bytes held by bodies that are not parsed yet: a thousand slow clients may not fill the memory."""

    def __init__(self, max_body_bytes: int) -> None:
        self.free_bytes = max_body_bytes // SMALL_BODIES
        self._max_bytes, self._num_bytes = BODIES_AT_ONCE * max_body_bytes, 0

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """The share of one body, given back at the end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self._num_bytes -= share.num_taken

    def take(self, num_bytes: int) -> None:
        """Raises HttpError 503 when so many bytes are not free."""
        if self._num_bytes + num_bytes > self._max_bytes:
            raise HttpError(
                503,
                "the server is full",
                because="the bodies of other requests are still arriving",
                hint="the request again, later",
                retry_after_s=1,
            )
        self._num_bytes += num_bytes


class BodyShare:
    """What one body has taken of the budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget, self.num_taken, self._num_free = budget, 0, budget.free_bytes

    def take(self, num_bytes: int) -> None:
        """Raises HttpError 503 when there is no more."""
        num_free = min(num_bytes, self._num_free)
        self._budget.take(num_bytes - num_free)
        self._num_free -= num_free
        self.num_taken += num_bytes - num_free
