"""The parent's side of one engine process: starts it, talks to it from an asyncio loop, notices its death."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from quire.child_process import python_command, python_environment
from quire.engine import wire
from quire.engine.config import EngineConfig
from quire.engine.input_processor import ModelLimits
from quire.engine.liveness import Liveness, process_cpu_time_s
from quire.engine.messages import EngineRequest, EngineStats, Failure, SequenceOutput
from quire.engine.socket_folder import SocketFolder
from quire.engine.wire import Refusal, Startup
from quire.errors import BackendError, ConfigError, RequestError

CLOSE_TIMEOUT_S = 5.0
LAST_WORDS_MS = 300
"""How long after the process's death a message of it may still be on its way."""

NUM_DESCRIPTORS = 32
"""So many must be free before sockets are made: the library below them aborts the process when it finds none."""

Message = list[SequenceOutput] | Refusal | EngineStats


class EngineClient:
    """One engine process, started with the object.

    `wait_ready` comes first; it and everything after it belong to one asyncio loop. Sending never waits. `close` may
    come from any thread.

    Attributes:
        liveness: fed with every message. last_stats: the newest statistics, which also come by themselves.
    Raises: BackendError or ConfigError when it cannot be started; nothing is left behind then.
    """

    def __init__(self, config: EngineConfig, *, health_timeout_s: float = 30.0) -> None:
        _require_descriptors()
        self.last_stats: EngineStats | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._outputs_decoder = msgspec.msgpack.Decoder(list[SequenceOutput])
        self._dead: asyncio.Future[int] | None = None
        with ExitStack() as opened:
            self._folder = SocketFolder()
            opened.callback(self._folder.close)
            startup = Startup(
                config=config,
                socket_folder=str(self._folder.path),
                log_level=logging.getLogger("quire").getEffectiveLevel(),
            )
            try:
                self._context = zmq.Context()
                opened.callback(self._context.destroy, linger=0)
                self._requests = self._bind(zmq.PUSH, startup.requests_address)
                self._outputs = zmq.asyncio.Socket.from_socket(self._bind(zmq.PULL, startup.outputs_address))
                opened.callback(self._close_sockets)
                # A process group of its own: Ctrl-C in a terminal goes to the parent only, which then ends both.
                self._process = subprocess.Popen(
                    python_command("quire.engine.process"),
                    env=python_environment(),
                    stdin=subprocess.PIPE,
                    process_group=0,
                )
            except (OSError, zmq.ZMQError) as error:
                raise BackendError(
                    "the engine process cannot be started",
                    because=error.strerror or str(error),
                    hint="more memory, processes or descriptors (ulimit -a), or room on the disk of "
                    f"{self._folder.path.parent}",
                ) from error
            opened.callback(self._end_process)
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died at once; wait_ready reports that
                wire.write_startup(self._process.stdin, startup)
            pid = self._process.pid
            self.liveness = Liveness(health_timeout_s, lambda: process_cpu_time_s(pid))
            self._opened = opened.pop_all()

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
        try:
            if kind == wire.READY:
                return msgspec.msgpack.decode(payload, type=ModelLimits)
            failure = msgspec.msgpack.decode(payload, type=Failure)
        except msgspec.MsgspecError as error:
            raise _unreadable(kind, error) from error
        raise failure.error()

    async def receive(self) -> Message:
        """The next message. Raises BackendError when the process has died, or says what nobody understands."""
        while True:
            kind, payload = await self._receive()
            self.liveness.hear()
            try:
                message = self._decode(kind, payload)
            except msgspec.MsgspecError as error:
                raise _unreadable(kind, error) from error
            if isinstance(message, EngineStats):
                self.last_stats = message
            if kind != wire.HEARTBEAT:
                return message

    def add_request(self, request: EngineRequest) -> None:
        """Sends a request.

        Raises: RequestError when it holds what no message can; BackendError when the process has died, as the other
        senders do.
        """
        try:
            payload = self._encoder.encode(request)
        except (msgspec.MsgspecError, ValueError, OverflowError, TypeError, RecursionError) as error:
            raise RequestError(
                "the request cannot be sent to the engine",
                because=f"{type(error).__name__}: {error}",
                hint="numbers of at most 64 bits, and text without lone surrogates",
            ) from error
        self._send(wire.ADD, payload)

    def abort(self, sequences: Sequence[tuple[str, int | None]]) -> None:
        """Ends sequences; index None = the whole request. Unknown ones are no error: they may have just finished."""
        self._send(wire.ABORT, self._encoder.encode(list(sequences)))

    def request_stats(self) -> None:
        """Asks for statistics; they come as a message."""
        self._send(wire.STATS, self._encoder.encode(None))

    def kill(self) -> None:
        """Ends a process that is not to be talked to any more, at once; `close` is still to come."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process; safe to call twice."""
        self._opened.close()

    def _decode(self, kind: bytes, payload: bytes) -> Message:
        if kind == wire.OUTPUTS:
            return self._outputs_decoder.decode(payload)
        if kind == wire.REFUSED:
            return msgspec.msgpack.decode(payload, type=Refusal)
        if kind in (wire.STATS_REPLY, wire.HEARTBEAT):
            return msgspec.msgpack.decode(payload, type=EngineStats)
        raise msgspec.ValidationError("there is no such kind")

    def _end_process(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_sockets(self) -> None:
        for socket in (self._requests, self._outputs):
            with contextlib.suppress(RuntimeError):  # the loop of the asyncio socket is closed already
                socket.close(linger=0)

    def _bind(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.set_hwm(0)
        socket.bind(address)
        return socket

    def _send(self, kind: bytes, payload: bytes) -> None:
        try:
            self._requests.send_multipart([kind, payload], zmq.NOBLOCK)
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
                raise _death(end_of_process(self._dead.result()))
        finally:
            if not incoming.done():
                incoming.cancel()
        frames = incoming.result()
        if len(frames) != 2:
            raise _unreadable(b"", f"{len(frames)} frames")
        return frames[0], frames[1]

    def _watch(self, loop: asyncio.AbstractEventLoop, dead: asyncio.Future[int]) -> None:
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop has gone first
            loop.call_soon_threadsafe(_settle, dead, code)


def end_of_process(code: int) -> str:
    """What a process's return code means, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a signal without a name"
    hint = "; the system kills so when memory runs out" if -code == signal.SIGKILL else ""
    return f"signal {-code} ({name}{hint})"


def _require_descriptors() -> None:
    held: list[int] = []
    try:
        held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(NUM_DESCRIPTORS))
    except OSError as error:
        raise ConfigError(
            "the engine process cannot be started",
            because=f"{error.strerror}: {NUM_DESCRIPTORS} descriptors must be free",
            hint="ulimit -n 1024, or more",
        ) from error
    finally:
        for descriptor in held:
            os.close(descriptor)


def _settle(dead: asyncio.Future[int], code: int) -> None:
    if not dead.done():
        dead.set_result(code)


def _death(because: str) -> BackendError:
    return BackendError(
        "the engine process ended", because=because, hint="looking at its own messages, then starting the server again"
    )


def _unreadable(kind: bytes, error: object) -> BackendError:
    return BackendError(
        "the engine process sends what cannot be read",
        because=f"{kind[:20]!r}: {error}",
        hint="reporting it with the log",
    )
