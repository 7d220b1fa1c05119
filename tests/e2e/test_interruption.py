"""Signals at random moments, threads, calls inside calls: after all of them, `LLM` answers as if undisturbed."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.errors import RequestError

LONG = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
MIXED = [
    LONG,
    SamplingParams(temperature=0.9, seed=4, max_tokens=24, ignore_eos=True, n=2),
    SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=1, presence_penalty=0.5),
]
PROMPTS = ["A KV cache is", "Paged attention keeps", "A block table"]


class Alarm(Exception):
    """What a program's own handler raises, as libraries for time limits do."""


@pytest.fixture(params=["fake", "cpu"], scope="module")
def llm(request: pytest.FixtureRequest, byte_model: Path) -> Iterator[LLM]:
    options: dict[str, Any] = {"model": "demo"}
    if request.param == "fake":
        options = {"model": str(byte_model), "load_format": "dummy"}
    with LLM(device=request.param, max_model_len=128, **options) as opened:
        yield opened


def texts(llm: LLM) -> list[Any]:
    return [
        [(one.token_ids, one.text, one.finish_reason) for one in output.outputs]
        for output in llm.generate(PROMPTS, MIXED)
    ]


def ask_until_interrupted(llm: LLM, *, after_s: float | None = None) -> None:
    """Asks again and again; with `after_s` an alarm comes so much later, whatever happens then."""
    if after_s is not None:
        signal.setitimer(signal.ITIMER_REAL, after_s)
    while True:
        texts(llm)


@pytest.fixture
def raising() -> Iterator[Callable[[int, type[BaseException]], None]]:
    """Puts a raising handler at a signal; everything is put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)}

    def put(number: int, error: type[BaseException]) -> None:
        def handler(number: int, frame: FrameType | None) -> None:
            raise error

        signal.signal(number, handler)

    yield put
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Alarm])
def test_an_interruption_at_any_moment_is_forgotten(
    llm: LLM, raising: Callable[[int, type[BaseException]], None], error: type[BaseException]
) -> None:
    raising(signal.SIGALRM, error)
    interrupt_often(llm, error, times=30)


def test_an_interruption_on_the_reference_device(raising: Callable[[int, type[BaseException]], None]) -> None:
    raising(signal.SIGALRM, KeyboardInterrupt)
    with LLM("demo", device="reference", max_model_len=64) as llm:
        interrupt_often(llm, KeyboardInterrupt, times=10)


def interrupt_often(llm: LLM, error: type[BaseException], *, times: int) -> None:
    """At random moments of a call, by an alarm whose handler raises `error`."""
    expected = texts(llm)
    rounds = random.Random(7)
    for _ in range(times):
        with pytest.raises((error, RequestError)) as caught:
            ask_until_interrupted(llm, after_s=rounds.uniform(1e-4, 0.05))
        # an alarm that is an Exception, inside the tokenizer, is what the text's own fault would be: it is the cause
        assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)
        assert not llm.engine.has_unfinished()
        stats = llm.engine.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
    assert texts(llm) == expected


def test_an_interruption_inside_the_handler_of_another(
    llm: LLM, raising: Callable[[int, type[BaseException]], None]
) -> None:
    """The caller answers an interruption with the next question, at once, and is interrupted again."""
    expected = texts(llm)
    raising(signal.SIGALRM, KeyboardInterrupt)
    for delay in (0.0005, 0.001, 0.003, 0.01, 0.02):
        try:
            ask_until_interrupted(llm, after_s=delay)
        except KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                ask_until_interrupted(llm, after_s=delay)
            assert texts(llm) == expected
    assert llm.engine.stats().num_used_blocks == 0


def test_a_stepper_is_interrupted_and_goes_on(llm: LLM, raising: Callable[[int, type[BaseException]], None]) -> None:
    """Who steps the engine himself need not give anything up: an interruption comes between two steps."""
    expected = llm.generate(PROMPTS[0], LONG)[0].outputs[0].token_ids
    raising(signal.SIGALRM, Alarm)
    rounds = random.Random(1)
    for _ in range(10):
        llm.engine.add_request(PROMPTS[0], LONG, request_id="mine")
        tokens: list[int] = []
        signal.setitimer(signal.ITIMER_REAL, rounds.uniform(1e-4, 0.01))
        while llm.engine.has_unfinished():
            try:
                for output in llm.engine.step():
                    tokens = output.outputs[0].token_ids
            except Alarm:
                continue
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert tokens == expected[: len(tokens)]
        assert len(tokens) >= len(expected) - 1  # the output of the step that the alarm waited for may be lost


def test_threads_are_served_one_after_the_other(llm: LLM) -> None:
    expected = {prompt: llm.generate(prompt, LONG)[0].outputs[0].text for prompt in PROMPTS}
    with ThreadPoolExecutor(4) as pool:
        asked = PROMPTS * 5
        answers = list(pool.map(lambda prompt: llm.generate(prompt, LONG)[0].outputs[0].text, asked, timeout=60))
    assert answers == [expected[prompt] for prompt in asked]
    assert llm.engine.stats().num_used_blocks == 0


def test_a_thread_that_waits_can_be_interrupted(
    llm: LLM, raising: Callable[[int, type[BaseException]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, entered, leave = llm.engine.step, threading.Event(), threading.Event()

    def slow() -> Any:
        entered.set()
        assert leave.wait(60)
        return step()

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(llm.engine, "step", slow)
        other = pool.submit(llm.generate, PROMPTS[0], LONG)
        assert entered.wait(60)
        raising(signal.SIGALRM, KeyboardInterrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS[1], LONG)
        leave.set()
        assert other.result(60)[0].outputs[0].finish_reason == "length"
    assert llm.engine.stats().num_used_blocks == 0


def test_a_call_inside_a_call_is_refused_and_the_outer_one_goes_on(llm: LLM) -> None:
    expected = llm.generate(PROMPTS[0], LONG)[0].outputs[0].text
    refused: list[str] = []

    class Bar:
        """A progress bar that asks back."""

        def __init__(self, **options: Any) -> None:
            for call in (lambda: llm.generate("again", LONG), llm.close):
                with pytest.raises(RequestError, match="by the same thread") as error:
                    call()
                refused.append(error.value.what)

        def update(self, count: int) -> None: ...

        def close(self) -> None: ...

    assert llm.generate(PROMPTS[0], LONG, Bar)[0].outputs[0].text == expected
    assert len(refused) == 2
    assert llm.generate(PROMPTS[0], LONG)[0].outputs[0].text == expected


@pytest.mark.parametrize(
    "place",
    [
        "_core.step",
        "_core._device.executor.submit",
        "_outputs.process",
        "_core.add_request",
        "_outputs.add",
        "_core.scheduler.schedule",
        "_core.scheduler.finish",
    ],
)
def test_an_interruption_that_could_not_wait(llm: LLM, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """As another thread throws it into this one, which nothing can hold back."""
    expected = texts(llm)
    *path, name = place.split(".")
    for number in (0, 3):
        owner: Any = llm.engine
        for part in path:
            owner = getattr(owner, part)
        method, calls = getattr(type(owner), name), iter(range(10**9))

        def interrupted(
            *arguments: Any, _call: Any = method, _calls: Any = calls, _at: int = number, **options: Any
        ) -> Any:
            if next(_calls) == _at:
                raise KeyboardInterrupt
            return _call(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(owner), name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask_until_interrupted(llm)
        assert texts(llm) == expected
        assert llm.engine.stats().num_used_blocks == 0
