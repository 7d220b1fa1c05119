"""The engine in a process of its own: `python -m quire.engine.process`, started by `EngineClient`.

The parent writes one frame to standard input (`Startup`) and keeps the pipe open; when it closes, or the
parent dies, the engine ends. Requests and outputs travel over two ZeroMQ sockets as msgspec messages.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Any

import msgspec
import zmq

from quire.engine.build import LoadedEngine, load_engine
from quire.engine.messages import EngineRequest, Failure, SequenceOutput
from quire.engine.wire import ABORT, ADD, FAILED, OUTPUTS, READY, REFUSED, STATS_REPLY, Refusal, read_startup
from quire.errors import QuireError, RequestError

IDLE_POLL_MS = 100

STOP_TIMEOUT_S = 3.0
"""How long a step may go on after the parent has gone."""


class EngineLoop:
    """Feeds the core from one socket and sends its outputs to the other, on one thread."""

    def __init__(self, engine: LoadedEngine, requests: zmq.Socket[bytes], outputs: zmq.Socket[bytes],
                 stop: threading.Event) -> None:
        self._core = engine.core
        self._requests, self._outputs, self._stop = requests, outputs, stop
        self._encoder = msgspec.msgpack.Encoder()
        self._request_decoder = msgspec.msgpack.Decoder(EngineRequest)
        self._abort_decoder = msgspec.msgpack.Decoder(list[tuple[str, int | None]])

    def run(self) -> None:
        """Until the parent goes away."""
        while not self._stop.is_set():
            self._receive(block=not self._core.has_unfinished())
            if self._core.has_unfinished():
                self._send_outputs(self._core.step())

    def _receive(self, *, block: bool) -> None:
        """Takes in every waiting message; when idle, waits a moment for the first."""
        if block:
            self._requests.poll(IDLE_POLL_MS)
        while True:
            try:
                kind, payload = self._requests.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._handle(kind, payload)

    def _handle(self, kind: bytes, payload: bytes) -> None:
        if kind == ADD:
            request = self._request_decoder.decode(payload)
            try:
                self._core.add_request(request)
            except RequestError as error:
                self._send(REFUSED, Refusal(request_id=request.request_id, failure=Failure.of(error)))
        elif kind == ABORT:
            for request_id, index in self._abort_decoder.decode(payload):
                self._send_outputs(self._core.abort(request_id, index))
        else:
            self._send(STATS_REPLY, self._core.stats())

    def _send_outputs(self, outputs: list[SequenceOutput]) -> None:
        if outputs:
            self._send(OUTPUTS, outputs)

    def _send(self, kind: bytes, message: Any) -> None:
        self._outputs.send_multipart([kind, self._encoder.encode(message)])


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes the pipe
    startup = read_startup(sys.stdin.buffer)
    if startup is None:
        return 1  # the parent went before it said anything
    logging.basicConfig(level=startup.log_level, format="%(levelname)s engine: %(message)s", stream=sys.stderr)
    stop, running = threading.Event(), threading.Event()
    threading.Thread(target=_watch_parent, args=(stop, running), daemon=True).start()
    context = zmq.Context()
    requests, outputs = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, address in ((requests, startup.requests_address), (outputs, startup.outputs_address)):
        socket.set_hwm(0)
        socket.connect(address)
    try:
        engine = load_engine(startup.config)
    except QuireError as error:
        outputs.send_multipart([FAILED, msgspec.msgpack.encode(Failure.of(error))])
        context.destroy(linger=2000)
        return 1
    running.set()
    outputs.send_multipart([READY, msgspec.msgpack.encode(engine.limits)])
    try:
        EngineLoop(engine, requests, outputs, stop).run()
    finally:
        engine.close()
        context.destroy(linger=0)
    return 0


def _watch_parent(stop: threading.Event, running: threading.Event) -> None:
    """Ends the loop when the pipe closes; ends the process when there is no loop yet, or it does not notice."""
    while os.read(0, 4096):
        pass
    stop.set()
    if running.is_set():
        threading.Event().wait(STOP_TIMEOUT_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
