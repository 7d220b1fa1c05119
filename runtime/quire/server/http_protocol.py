"""One HTTP/1.1 connection with limits of time and size, over uvicorn's protocol and h11's parser."""

from __future__ import annotations

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from quire.server.config import ServerConfig
from quire.server.errors import error_response
from quire.server.overload import TooManyConnections

logger = logging.getLogger("quire")

MAX_HEAD_BYTES = 32 << 10
"""Request line and headers together."""

RECEIVE_BYTES = 32 << 10
"""Most bytes of one connection that are parsed before others get their turn."""

FREE_CHUNKS, BYTES_PER_CHUNK = 1024, 64
"""A chunked body may have so many chunks of any size; more must be of this size on average, since each costs time."""

LINGER_S = 1.0
"""How long a refused client may go on sending: closed at once, it would lose the answer."""

CONNECTIONS_TO_REFUSE = 64
"""So many connections above the limit are told why; more are closed."""


class LimitedConfig(uvicorn.Config):
    """uvicorn's configuration, and the limits of each connection."""

    def __init__(self, app: Any, limits: ServerConfig, **options: Any) -> None:
        super().__init__(app, http=LimitedProtocol, ws="none", h11_max_incomplete_event_size=MAX_HEAD_BYTES, **options)
        self.limits = limits


class LimitedProtocol(H11Protocol):
    """Closes connections whose client is too slow, sends too much, or does not read; says why where it can."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = self._parser = _Parser()
        self._limits = config.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        num_over = len(self.connections) - self._limits.max_connections
        if num_over > CONNECTIONS_TO_REFUSE:
            logger.warning("more than %d connections: further ones are closed", self._limits.max_connections)
            transport.abort()
            return
        if num_over > 0:
            logger.warning("more than %d connections: further ones are refused", self._limits.max_connections)
            self.app = TooManyConnections(self.app)
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]  # how much asyncio reads at once
        _keep_alive(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for deadline in (self._deadline, self._write_deadline, self.timeout_keep_alive_task):
            if deadline is not None:
                deadline.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._limits.write_timeout_s, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def shutdown(self) -> None:
        if self._refused or self._parser.their_state is h11.ERROR or self.transport.is_closing():
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is not HTTP."""
        reasons = {431: f"the request's head is larger than {MAX_HEAD_BYTES} bytes"}
        status = self._parser.error_status
        self._refuse(status, reasons.get(status, "this is not a valid HTTP/1.1 request"))

    def _watch(self) -> None:
        """Between two requests, what the client sends must become a request, or end with the last one, in time."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():
            self._stop_deadline()
        elif self._deadline is None and self.timeout_keep_alive_task is None:
            self._start_deadline()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._limits.header_timeout_s, self._too_slow)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        has_begun = bool(self._parser.trailing_data[0])
        if self._parser.their_state is h11.IDLE and self._parser.our_state is h11.IDLE and has_begun:
            self._refuse(408, f"the request's head did not arrive within {self._limits.header_timeout_s:g} s")
        else:
            self.transport.abort()

    def _unread(self) -> None:
        logger.warning("a client read nothing for %g s: its connection is closed", self._limits.write_timeout_s)
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answers without the application, and closes a moment later."""
        self._refused = True
        self._stop_deadline()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        self.transport.write(_raw(status, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.abort)


class _Parser(h11.Connection):
    """h11's parser; remembers the status of an error, and refuses bodies in countless tiny chunks."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.error_status = 400
        self._num_chunks = self._num_bytes = 0

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.error_status = error.error_status_hint
            raise
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._num_chunks += event.chunk_start
            self._num_bytes += len(event.data)
            if self._num_chunks > FREE_CHUNKS + self._num_bytes // BYTES_PER_CHUNK:
                raise h11.RemoteProtocolError("chunks are too small")
        return event


def _raw(status: int, message: str) -> bytes:
    """A whole response as bytes."""
    response = error_response(status, message, headers={"Connection": "close"})
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [b": ".join(header) for header in response.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body)


def _keep_alive(transport: asyncio.Transport) -> None:
    """The kernel finds out whether a silent client is still there."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not on every platform
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
