"""uvicorn as Quire runs it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import uvicorn

from quire.async_llm import AsyncLLM
from quire.observability.log_limit import LogLimit
from quire.server.app import build_app
from quire.server.config import ServerConfig
from quire.server.http_protocol import LimitedConfig
from quire.server.request_log import RequestLog

logger = logging.getLogger("quire")

SHUTDOWN_TIMEOUT_S = 3
"""How long clients may take to read the end of their answers."""

BACKLOG = 2048
"""Connections that the kernel keeps for us."""

ACCEPT_AT_ONCE = 32
"""Connections that asyncio accepts in one turn of its loop, which is also how often it fails without descriptors."""

RESERVED_DESCRIPTORS = 64
"""Files, pipes and sockets that are not connections."""

MAX_LINES_PER_S = 100
"""Lines a second of the log of requests; those left out are counted."""


def http_server(engine: AsyncLLM, config: ServerConfig) -> uvicorn.Server:
    """A server over a started engine, to be run with one bound socket. Signals are its caller's business."""
    config = replace(config, max_connections=_affordable_connections(config.max_connections))
    app = build_app(engine, config)
    return _Server(
        LimitedConfig(
            RequestLog(app, app.state.metrics.num_answers),
            config,
            log_level=config.log_level,
            lifespan="off",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            timeout_keep_alive=config.keep_alive_timeout_s,
            backlog=ACCEPT_AT_ONCE,
        )
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; says where it listens, and little about what it cannot help."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_loop_failed)
        limit_logs()
        await super().startup(sockets=sockets)
        assert sockets is not None
        sockets[0].listen(BACKLOG)  # asyncio set its own, smaller number
        host, port = sockets[0].getsockname()[:2]
        logger.info("serving on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def limit_logs() -> None:
    """What is logged for each request, or for each failure, is limited in each second."""
    for handler in {*logging.getLogger().handlers, *logger.handlers, *logging.getLogger("uvicorn").handlers}:
        if not any(isinstance(other, LogLimit) for other in handler.filters):
            handler.addFilter(LogLimit())
            handler.addFilter(LogLimit(MAX_LINES_PER_S, 1.0, level=logging.INFO))


def _loop_failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio accepts again a second after it had no descriptors; that needs no traceback."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        logger.warning("no connection can be accepted for a second: %s; a higher `ulimit -n` may help", error.strerror)
    else:
        loop.default_exception_handler(context)


def _affordable_connections(wanted: int) -> int:
    """So many connections as there can be descriptors for; the limit of the process is raised where it may be."""
    needed = wanted + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * needed:
        soft = 2 * needed if hard == resource.RLIM_INFINITY else min(hard, 2 * needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    affordable = max(1, soft - RESERVED_DESCRIPTORS)
    logger.warning("%d connections at most: this process may have %d descriptors open (`ulimit -n`)", affordable, soft)
    return affordable
