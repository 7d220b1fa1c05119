"""The parent's side of the engine process: starts it, talks to it from an asyncio loop, notices its death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from quire.engine import wire
from quire.engine.config import EngineConfig
from quire.engine.input_processor import ModelLimits
from quire.engine.messages import EngineRequest, EngineStats, Failure, SequenceOutput
from quire.engine.wire import Refusal, Startup
from quire.errors import BackendError

CLOSE_TIMEOUT_S = 5.0
LAST_WORDS_MS = 300
"""How long after the process's death a message of it may still be on its way."""


class EngineClient:
    """One engine process, started with the object.

    `wait_ready` comes first; it and everything after it belong to one asyncio loop. Sending never waits. `close` may
    come from any thread.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quire-")
        self._context = zmq.Context()
        self._requests = self._bind(zmq.PUSH, "requests")
        self._outputs = zmq.asyncio.Socket.from_socket(self._bind(zmq.PULL, "outputs"))
        startup = Startup(
            config=config,
            requests_address=self._address("requests"),
            outputs_address=self._address("outputs"),
            log_level=logging.getLogger("quire").getEffectiveLevel(),
        )
        # A process group of its own: Ctrl-C in a terminal goes to the parent only, which then ends both.
        self._process = subprocess.Popen([sys.executable, "-m", "quire.engine.process"], stdin=subprocess.PIPE,
                                         process_group=0)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; wait_ready reports that
            wire.write_startup(self._process.stdin, startup)
        self._encoder = msgspec.msgpack.Encoder()
        self._outputs_decoder = msgspec.msgpack.Decoder(list[SequenceOutput])
        self._dead: asyncio.Future[int] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """Process id of the engine process."""
        return self._process.pid

    async def wait_ready(self) -> ModelLimits:
        """Waits until the model is loaded. Raises the QuireError that stopped it."""
        loop = asyncio.get_running_loop()
        self._dead = loop.create_future()
        threading.Thread(target=self._watch, args=(loop, self._dead), daemon=True).start()
        kind, payload = await self._receive()
        if kind == wire.FAILED:
            raise msgspec.msgpack.decode(payload, type=Failure).error()
        return msgspec.msgpack.decode(payload, type=ModelLimits)

    async def receive(self) -> list[SequenceOutput] | Refusal | EngineStats:
        """The next message. Raises BackendError when the process has died."""
        kind, payload = await self._receive()
        if kind == wire.OUTPUTS:
            return self._outputs_decoder.decode(payload)
        if kind == wire.REFUSED:
            return msgspec.msgpack.decode(payload, type=Refusal)
        return msgspec.msgpack.decode(payload, type=EngineStats)

    def add_request(self, request: EngineRequest) -> None:
        """Sends a request. Raises BackendError when the process has died, as the other senders do."""
        self._send(wire.ADD, request)

    def abort(self, sequences: Sequence[tuple[str, int | None]]) -> None:
        """Ends sequences; index None = the whole request. Unknown ones are no error: they may have just finished."""
        self._send(wire.ABORT, list(sequences))

    def request_stats(self) -> None:
        """Asks for statistics; they come as a message."""
        self._send(wire.STATS, None)

    def close(self) -> None:
        """Ends the process; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for socket in (self._requests, self._outputs):
            with contextlib.suppress(RuntimeError):  # the loop of the asyncio socket is closed already
                socket.close(linger=0)
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def _address(self, name: str) -> str:
        return f"ipc://{Path(self._folder.name) / name}"

    def _bind(self, kind: int, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(0)
        socket.bind(self._address(name))
        return socket

    def _send(self, kind: bytes, message: Any) -> None:
        try:
            self._requests.send_multipart([kind, self._encoder.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # no peer, or closed: without a limit on the queue there is no other reason
            raise _death("nobody takes its messages") from error

    async def _receive(self) -> tuple[bytes, bytes]:
        assert self._dead is not None, "wait_ready comes first"
        incoming: asyncio.Future[list[bytes]] = asyncio.ensure_future(self._outputs.recv_multipart())
        waited: list[asyncio.Future[Any]] = [incoming, self._dead]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not incoming.done():
                await asyncio.wait([incoming], timeout=LAST_WORDS_MS / 1000)
            if not incoming.done():
                raise _death(f"exit code {self._dead.result()}")
        finally:
            if not incoming.done():
                incoming.cancel()
        kind, payload = incoming.result()
        return kind, payload

    def _watch(self, loop: asyncio.AbstractEventLoop, dead: asyncio.Future[int]) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has gone first
            loop.call_soon_threadsafe(_settle, dead, code)


def _settle(dead: asyncio.Future[int], code: int) -> None:
    if not dead.done():
        dead.set_result(code)


def _death(because: str) -> BackendError:
    return BackendError("the engine process ended", because=because,
                        try_="looking at its own messages, then starting the server again")
