"""uvicorn as Quire runs it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

import uvicorn

from quire.async_llm import AsyncLLM
from quire.server.app import build_app

logger = logging.getLogger("quire")

SHUTDOWN_TIMEOUT_S = 3
"""How long clients may take to read the end of their answers."""


def http_server(
    engine: AsyncLLM, *, model_names: Sequence[str], api_keys: Sequence[str], log_level: str
) -> uvicorn.Server:
    """A server over a started engine, to be run with one bound socket. Signals are its caller's business."""
    app = build_app(engine, model_names=model_names, api_keys=api_keys)
    return _Server(
        uvicorn.Config(app, log_level=log_level, lifespan="off", timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S)
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; says where it listens."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        logger.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)
