"""The parent's side of the engine process: starts it, talks to it from an asyncio loop, notices its death."""

from __future__ import annotations

import asyncio
import contextlib
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

from quire import errors
from quire.engine import process
from quire.engine.config import EngineConfig
from quire.engine.input_processor import ModelLimits
from quire.engine.messages import EngineRequest, EngineStats, SequenceOutput
from quire.engine.process import Failure, Refusal, Startup
from quire.errors import BackendError, QuireError, RequestError

CLOSE_TIMEOUT_S = 15.0


class EngineClient:
    """One engine process. `start` and everything after it belong to one asyncio loop; `close` may come from any thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quire-")
        base = Path(self._folder.name)
        self._context = zmq.asyncio.Context()
        self._requests, self._outputs = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        for socket, name in ((self._requests, "requests"), (self._outputs, "outputs")):
            socket.setsockopt(zmq.LINGER, 0)
            socket.set_hwm(0)
            socket.bind(f"ipc://{base / name}")
        startup = Startup(config=config, requests_address=f"ipc://{base / 'requests'}",
                          outputs_address=f"ipc://{base / 'outputs'}")
        self._process = subprocess.Popen([sys.executable, "-m", "quire.engine.process"], stdin=subprocess.PIPE)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; wait_ready reports that
            process.write_frame(self._process.stdin, startup)
        self._encoder = msgspec.msgpack.Encoder()
        self._outputs_decoder = msgspec.msgpack.Decoder(list[SequenceOutput])
        self._dead: asyncio.Future[int] | None = None
        self._closed = False

    async def wait_ready(self) -> ModelLimits:
        """Waits until the model is loaded. Raises the QuireError that stopped it."""
        loop = asyncio.get_running_loop()
        self._dead = loop.create_future()
        threading.Thread(target=self._watch, args=(loop, self._dead), daemon=True).start()
        kind, payload = await self._receive()
        if kind == process.FAILED:
            failure = msgspec.msgpack.decode(payload, type=Failure)
            raise _error_of(failure)
        return msgspec.msgpack.decode(payload, type=ModelLimits)

    async def receive(self) -> list[SequenceOutput] | Refusal | EngineStats:
        """The next message. Raises BackendError when the process has died."""
        kind, payload = await self._receive()
        if kind == process.OUTPUTS:
            return self._outputs_decoder.decode(payload)
        if kind == process.REFUSED:
            return msgspec.msgpack.decode(payload, type=Refusal)
        return msgspec.msgpack.decode(payload, type=EngineStats)

    async def add_request(self, request: EngineRequest) -> None:
        """Sends a request."""
        await self._send(process.ADD, request)

    async def abort(self, sequences: Sequence[tuple[str, int | None]]) -> None:
        """Ends sequences; index None = the whole request. Unknown ones are no error: they may have just finished."""
        await self._send(process.ABORT, list(sequences))

    async def request_stats(self) -> None:
        """Asks for statistics; they come as a message."""
        await self._send(process.STATS, None)

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
        self._context.destroy(linger=0)
        self._folder.cleanup()

    async def _send(self, kind: bytes, message: Any) -> None:
        await self._requests.send_multipart([kind, self._encoder.encode(message)])

    async def _receive(self) -> tuple[bytes, bytes]:
        assert self._dead is not None, "wait_ready comes first"
        incoming = asyncio.ensure_future(self._outputs.recv_multipart())
        await asyncio.wait([incoming, self._dead], return_when=asyncio.FIRST_COMPLETED)
        if not incoming.done() and await self._outputs.poll(timeout=0):
            await asyncio.wait([incoming])  # a last message stands before the death
        if not incoming.done():
            incoming.cancel()
            raise BackendError("the engine process ended", because=f"exit code {self._dead.result()}",
                               try_="its own messages above; then start the server again")
        kind, payload = incoming.result()
        return kind, payload

    def _watch(self, loop: asyncio.AbstractEventLoop, dead: asyncio.Future[int]) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has gone first
            loop.call_soon_threadsafe(lambda: dead.done() or dead.set_result(code))


def _error_of(failure: Failure) -> QuireError:
    kind = getattr(errors, failure.kind, QuireError)
    return kind(failure.what, because=failure.because, try_=failure.try_)  # type: ignore[no-any-return]


def refusal_error(refusal: Refusal) -> RequestError:
    """The RequestError behind a refusal."""
    return RequestError(refusal.what, because=refusal.because, try_=refusal.try_, param=refusal.param)
