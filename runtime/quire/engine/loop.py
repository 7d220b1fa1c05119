"""The loop of an engine process: messages to the core, its outputs to the parent, a sign of life twice a second."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import msgspec
import zmq

from quire.engine.core import EngineCore
from quire.engine.liveness import HEARTBEAT_S
from quire.engine.messages import EngineRequest, Failure, SequenceOutput
from quire.engine.wire import ABORT, ADD, HEARTBEAT, OUTPUTS, REFUSED, STATS, STATS_REPLY, Refusal
from quire.errors import InternalError, QuireError

logger = logging.getLogger("quire")

IDLE_POLL_MS = 100

MOST_FAILURES = 8
"""So many turns in a row that fail, and the loop gives up."""


class _RequestId(msgspec.Struct):
    """What must be readable of a request for its sender to be answered."""

    request_id: str


class EngineLoop:
    """Feeds the core from one socket and sends its outputs to the other, on one thread."""

    def __init__(
        self, core: EngineCore, requests: zmq.Socket[bytes], outputs: zmq.Socket[bytes], stop: threading.Event
    ) -> None:
        self._core = core
        self._requests, self._outputs, self._stop = requests, outputs, stop
        self._encoder = msgspec.msgpack.Encoder()
        self._request_decoder = msgspec.msgpack.Decoder(EngineRequest)
        self._id_decoder = msgspec.msgpack.Decoder(_RequestId)
        self._abort_decoder = msgspec.msgpack.Decoder(list[tuple[str, int | None]])
        self._heartbeat_s = 0.0

    def run(self) -> None:
        """Until the parent goes away. Raises what failed when the loop cannot go on."""
        num_failures = 0
        while not self._stop.is_set():
            try:
                self._turn()
                num_failures = 0
            except zmq.ZMQError:
                raise  # there is nobody to talk to
            except Exception as error:  # the last boundary: the core and what it calls have theirs
                num_failures += 1
                if num_failures >= MOST_FAILURES:
                    raise
                logger.exception("a turn of the engine's loop failed; all requests end")
                self._send_outputs(self._core.reset(_bug(error)))
            if self._core.broken is not None:
                raise self._core.broken  # told to those who waited; another process may find the device again

    def _turn(self) -> None:
        self._receive(block=not self._core.has_unfinished())
        if self._core.has_unfinished():
            self._send_outputs(self._core.step())
        now_s = time.monotonic()
        if now_s - self._heartbeat_s >= HEARTBEAT_S:
            self._heartbeat_s = now_s
            self._send(HEARTBEAT, self._core.stats())

    def _receive(self, *, block: bool) -> None:
        """Takes in every waiting message; when idle, waits a moment for the first."""
        if block:
            self._requests.poll(IDLE_POLL_MS)
        while True:
            try:
                frames = self._requests.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) != 2:
                logger.error("a message of %d frames is dropped", len(frames))
                continue
            self._handle(frames[0], frames[1])

    def _handle(self, kind: bytes, payload: bytes) -> None:
        try:
            if kind == ADD:
                self._add(self._request_decoder.decode(payload))
            elif kind == ABORT:
                for request_id, index in self._abort_decoder.decode(payload):
                    self._send_outputs(self._core.abort(request_id, index))
            elif kind == STATS:
                self._send(STATS_REPLY, self._core.stats())
            else:
                logger.error("a message of the unknown kind %.20r is dropped", kind)
        except msgspec.MsgspecError as error:
            logger.error("a message of kind %r that cannot be read is dropped: %s", kind, error)
            if kind == ADD:
                self._refuse_unreadable(payload, error)

    def _add(self, request: EngineRequest) -> None:
        try:
            self._core.add_request(request)
        except QuireError as error:
            self._send(REFUSED, Refusal(request_id=request.request_id, failure=Failure.of(error)))

    def _refuse_unreadable(self, payload: bytes, reason: msgspec.MsgspecError) -> None:
        try:
            request_id = self._id_decoder.decode(payload).request_id
        except msgspec.MsgspecError as error:
            logger.error("its request has no id that can be read: %s", error)
            return
        self._send(REFUSED, Refusal(request_id=request_id, failure=Failure.of(_bug(reason))))

    def _send_outputs(self, outputs: list[SequenceOutput]) -> None:
        if not outputs:
            return
        try:
            self._send(OUTPUTS, outputs)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:  # something no message can hold
            logger.exception("outputs of %d sequences cannot be sent; their requests end", len(outputs))
            for request_id in {output.request_id for output in outputs}:
                self._core.abort(request_id)
            failure = Failure.of(_bug(error))
            self._send(
                OUTPUTS,
                [SequenceOutput(output.request_id, output.index, [], "error", error=failure) for output in outputs],
            )

    def _send(self, kind: bytes, message: Any) -> None:
        self._outputs.send_multipart([kind, self._encoder.encode(message)])


def _bug(error: Exception) -> InternalError:
    return InternalError(
        "the engine failed", because=f"{type(error).__name__}: {error}", hint="reporting it with the log"
    )
