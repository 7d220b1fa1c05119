"""The loop of the engine process, on sockets within this one: what it cannot read or send ends no loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from quire.engine.build import load_engine
from quire.engine.config import EngineConfig
from quire.engine.core import EngineCore
from quire.engine.loop import EngineLoop
from quire.engine.messages import EngineRequest, EngineStats, SequenceOutput
from quire.engine.wire import ABORT, ADD, HEARTBEAT, OUTPUTS, REFUSED, STATS, STATS_REPLY, Refusal
from quire.sampling_params import SamplingParams


class Ends:
    """Both ends of a running loop."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.context = zmq.Context()
        sockets = [self.context.socket(kind) for kind in (zmq.PUSH, zmq.PULL, zmq.PULL, zmq.PUSH)]
        self.to_loop, taken, self.from_loop, given = sockets
        for bound, connected, name in ((self.to_loop, taken, "in"), (self.from_loop, given, "out")):
            bound.bind(f"inproc://{name}")
            connected.connect(f"inproc://{name}")
        self.stop = threading.Event()
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(EngineLoop(core, taken, given, self.stop),))
        self.thread.start()

    def _run(self, loop: EngineLoop) -> None:
        try:
            loop.run()
        except Exception as error:  # whatever it is, the test looks at it
            self.failure = error

    def send(self, *frames: Any) -> None:
        self.to_loop.send_multipart(frames)

    def add(self, request_id: str, **params: Any) -> None:
        params = {"temperature": 0, "max_tokens": 3, **params}
        self.send(
            ADD,
            msgspec.msgpack.encode(
                EngineRequest(request_id=request_id, prompt_token_ids=(97,), params=SamplingParams(**params))
            ),
        )

    def receive(self, *kinds: bytes) -> tuple[bytes, bytes]:
        """The next message of one of the kinds."""
        while self.from_loop.poll(5000):
            kind, payload = self.from_loop.recv_multipart()
            if kind in kinds:
                return kind, payload
        raise AssertionError("nothing came")

    def last_output(self, request_id: str) -> SequenceOutput:
        while True:
            for output in msgspec.msgpack.decode(self.receive(OUTPUTS)[1], type=list[SequenceOutput]):
                if output.request_id == request_id and output.finish_reason is not None:
                    return output


@pytest.fixture
def ends(byte_model: Path) -> Iterator[Ends]:
    engine = load_engine(EngineConfig(model=str(byte_model), device="fake", load_format="dummy"))
    opened = Ends(engine.core)
    yield opened
    opened.stop.set()
    opened.thread.join(5)
    opened.context.destroy(linger=0)
    engine.close()
    assert not opened.thread.is_alive()


def test_messages_that_cannot_be_read_are_dropped_or_refused(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    whole = msgspec.to_builtins(EngineRequest(request_id="x", prompt_token_ids=(97,), params=SamplingParams()))
    for payload in (
        msgspec.msgpack.encode({**whole, "prompt_token_ids": "text"}),
        msgspec.msgpack.encode({**whole, "params": {**whole["params"], "seed": []}}),
        msgspec.msgpack.encode({"request_id": "x"}),
    ):
        ends.send(ADD, payload)
        refusal = msgspec.msgpack.decode(ends.receive(REFUSED)[1], type=Refusal)
        assert (refusal.request_id, refusal.failure.kind) == ("x", "InternalError")
    for frames in (
        (ADD, b""),
        (ADD, b"\xc1"),
        (ADD, msgspec.msgpack.encode([1])),
        (ABORT, msgspec.msgpack.encode({"a": 1})),
        (b"what is this", b"\x00"),
        (b"", b""),
        (ADD,),
        (STATS, b"", b"three"),
    ):
        ends.send(*frames)
    ends.add("good")
    assert ends.last_output("good").finish_reason == "length"
    assert "unknown kind b'what is this'" in caplog.text
    assert "3 frames is dropped" in caplog.text


def test_an_exception_of_the_core_ends_the_requests_and_not_the_loop(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        broken: Callable[..., Any] = lambda: 1 / 0  # noqa: E731
        patched.setattr(ends.core, "step", broken)
        ends.add("one")
        failed = ends.last_output("one")
        assert failed.error is not None
        assert (failed.finish_reason, failed.error.kind) == ("error", "InternalError")
    ends.add("two")
    assert ends.last_output("two").finish_reason == "length"


def test_outputs_that_no_message_can_hold(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ends.core.step
    with monkeypatch.context() as patched:
        patched.setattr(ends.core, "step", lambda: [output._replace(stop_reason=2**70) for output in step()])
        ends.add("one")
        failed = ends.last_output("one")
        assert failed.error is not None
        assert "OverflowError" in failed.error.because
    ends.add("two")
    assert ends.last_output("two").finish_reason == "length"


def test_it_gives_up_when_nothing_works(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise KeyError("books")

    monkeypatch.setattr(ends.core, "has_unfinished", broken)
    ends.thread.join(10)
    assert isinstance(ends.failure, KeyError)


def test_heartbeats_come_unasked_and_not_often(ends: Ends) -> None:
    ends.receive(HEARTBEAT)
    assert isinstance(msgspec.msgpack.decode(ends.receive(HEARTBEAT)[1], type=EngineStats), EngineStats)
    ends.send(STATS, b"\xc0")
    assert ends.receive(HEARTBEAT, STATS_REPLY)[0] == STATS_REPLY
