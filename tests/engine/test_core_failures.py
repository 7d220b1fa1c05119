"""What a failing device, broken logits, a bug or an interruption costs: those whose fault it is, nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.device.batch import StepResult
from quire.engine.step_builder import StepBuilder
from quire.errors import BackendError, InternalError
from quire.sampling.batch import NOT_FINITE
from quire.scheduler.scheduler import Scheduler
from quire.scheduler.sequence import Sequence
from quire.testing import FakeFaults
from quire.testing.fake_device import FakeStep
from tests.engine.conftest import WAVE

Drive = Callable[..., Any]

both_loops = pytest.mark.parametrize("depth", [1, 2])


def alone(drive: Drive, *requests: tuple[str, list[int], dict[str, Any]]) -> dict[tuple[str, int], list[int]]:
    """The tokens of an engine on which nothing fails."""
    driver = drive(depth=1, budget=8)
    for name, prompt, options in requests:
        driver.add(name, prompt, **options)
    return driver.run()


@both_loops
@pytest.mark.parametrize("where", ["submit", "result"])
@pytest.mark.parametrize("number", range(6))
def test_a_step_that_fails_once_costs_nobody_a_token(drive: Drive, depth: int, where: str, number: int) -> None:
    driver = drive(depth=depth, budget=8)
    driver.executor.faults = FakeFaults({(where, number): "step"})
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.run()
    expected = alone(drive, *WAVE)
    assert driver.core.stats().failed_steps >= 1
    ended = {key for key in expected if driver.finish_reason(*key) == "error"}
    assert len({name for name, _ in ended}) <= 1, "only a request that was alone in the step"
    for key in expected.keys() - ended:
        assert driver.tokens[key] == expected[key]


def fail_steps_with(driver: Any, monkeypatch: Any, is_bad: Callable[[Any], bool], error: Exception) -> None:
    """Steps fail, when they are submitted, in which the batch `is_bad`."""
    submit = driver.executor.submit

    def submit_or_fail(batch: Any) -> Any:
        if is_bad(batch):
            raise error
        return submit(batch)

    monkeypatch.setattr(type(driver.executor), "submit", lambda self, batch: submit_or_fail(batch))


@both_loops
@pytest.mark.parametrize("error", [BackendError("it burns"), ValueError("of any kind"), RecursionError()])
def test_who_fails_alone_ends_alone(
    drive: Drive, monkeypatch: Any, depth: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that fails every step with token 49 in it, as one that raises for a row of NaN."""
    driver = drive(depth=depth, budget=8)
    fail_steps_with(driver, monkeypatch, lambda batch: bool((batch.token_ids == 49).any()), error)
    driver.add("bad", [49, 3, 49], max_tokens=4)
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.add("bad too", [49] * 11, n=2)
    driver.run()
    expected = alone(drive, *WAVE)
    assert {key: driver.tokens[key] for key in expected} == expected
    assert [driver.finish_reason(*key) for key in (("bad", 0), ("bad too", 0), ("bad too", 1))] == ["error"] * 3
    failure = driver.outputs["bad", 0][-1].error
    assert (failure.kind, str(error) in failure.what + failure.because) == ("BackendError", True)
    assert "request bad: its step failed" in caplog.text
    driver.add("after", [1, 2])
    driver.run()
    assert driver.finish_reason("after") == "length"


@both_loops
def test_a_device_that_fails_always_is_given_up(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=64, max_num_seqs=32, num_blocks=200)
    fail_steps_with(driver, monkeypatch, lambda batch: True, BackendError("it burns"))
    for number in range(30):
        driver.add(f"r{number}", [number, 1])
    driver.run()
    assert all(driver.finish_reason(f"r{number}") == "error" for number in range(30))
    assert driver.core.stats().failed_steps < 15, "not one step for each request"
    monkeypatch.undo()
    driver.add("after", [1, 2])
    driver.run()
    assert driver.finish_reason("after") == "length"


@both_loops
def test_a_row_of_broken_logits_ends_its_sequence_only(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    execute = type(driver.executor)._execute

    def execute_broken(self: Any, batch: Any) -> StepResult:
        result = execute(self, batch)
        if batch.sampling is not None:
            last = batch.token_ids[batch.logits_indices[batch.sampling.rows]]
            result.tokens[last == 49] = NOT_FINITE
        return result

    monkeypatch.setattr(type(driver.executor), "_execute", execute_broken)
    driver.add("bad", [3, 49], n=2)
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.run()
    expected = alone(drive, *WAVE)
    assert {key: driver.tokens[key] for key in expected} == expected
    assert [driver.finish_reason("bad", index) for index in (0, 1)] == ["error", "error"]
    assert "NaN" in driver.outputs["bad", 0][-1].error.what
    assert driver.core.stats().failed_steps == 0


@both_loops
def test_broken_prompt_logprobs_end_their_request(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    execute = type(driver.executor)._execute

    def execute_broken(self: Any, batch: Any) -> StepResult:
        result = execute(self, batch)
        if result.prompt_logprobs is not None:
            result.prompt_logprobs.logprobs[batch.sampling.prompt_targets == 49, 0] = np.nan
        return result

    monkeypatch.setattr(type(driver.executor), "_execute", execute_broken)
    driver.add("bad", [3, 49, 5], prompt_logprobs=0)
    driver.add("good", [3, 4, 5], prompt_logprobs=0)
    driver.run()
    assert (driver.finish_reason("bad"), driver.finish_reason("good")) == ("error", "length")


INSIDE = (
    "core._builder.build",
    "core._device.executor.submit",
    "core.scheduler.schedule",
    "core._logprobs_of",
    "core.scheduler.offer_to_cache",
    "core._prompt_logprobs.put",
    "core.scheduler.finish",
)


@both_loops
@pytest.mark.parametrize(
    ("place", "after"),
    [
        (place, after)
        for place in INSIDE
        for after in (False, True)
        if not (after and "submit" in place)  # what the executor has and nobody knows of: test_graph_executor
    ],
)
def test_an_interruption_anywhere_loses_what_ran_and_nothing_else(
    drive: Drive, depth: int, place: str, after: bool
) -> None:
    """As Ctrl-C does where nobody holds it back: before the call, or when it has done its work and nobody knows."""
    expected = alone(drive, *WAVE)
    for number in range(5):
        driver = drive(depth=depth, budget=8)
        for name, prompt, options in WAVE:
            driver.add(name, prompt, **options)
        restore = interrupt(driver, place, number, after=after)
        with pytest.raises(KeyboardInterrupt):
            driver.run()
        restore()
        lost = driver.core.abort("a")
        assert {output.finish_reason for output in lost} <= {"abort", "error", "length"}  # it may just have finished
        driver.outputs.clear()
        driver.tokens.clear()
        for name, prompt, options in WAVE:
            driver.core.abort(name)
            driver.add(name, prompt, **options)
        assert driver.run() == expected


def interrupt(driver: Any, place: str, number: int, *, after: bool) -> Callable[[], None]:
    """Raises KeyboardInterrupt in call `number` of a method; returns what takes that back."""
    *path, name = place.split(".")
    owner = driver
    for part in path:
        owner = getattr(owner, part)
    if "submit" in place:
        owner = driver.core._device.executor = Delegate(driver.executor)
    method = getattr(owner, name)
    calls = iter(range(10**9))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        is_it = next(calls) == number
        if is_it and not after:
            raise KeyboardInterrupt
        result = method(*arguments, **options)
        if is_it:
            raise KeyboardInterrupt
        return result

    object.__setattr__(owner, name, interrupted)
    return lambda: object.__setattr__(owner, name, method)


class Delegate:
    """An executor whose methods can be replaced."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def test_a_result_of_the_wrong_length_is_the_executors_failure(drive: Drive, monkeypatch: Any) -> None:
    driver = drive(depth=1)

    class Broken:
        def result(self) -> StepResult:
            return StepResult(np.zeros((3, 1), np.int32), np.ones(3, np.int32))

    driver.add("a", [1])
    monkeypatch.setattr(type(driver.executor), "submit", lambda self, batch: Broken())
    driver.take(driver.core.step())
    assert driver.finish_reason("a") == "error"


@both_loops
def test_blocks_of_broken_rows_are_not_found_again(drive: Drive, depth: int) -> None:
    """A fault of a moment must not stay in the prefix cache, where all who begin alike would meet it."""
    driver = drive(depth=depth)
    driver.executor.broken_token = 12
    driver.add("bad", list(range(13)))
    driver.add("good", list(range(10)), max_tokens=2)
    driver.run()
    assert (driver.finish_reason("bad"), driver.finish_reason("good")) == ("error", "length")
    driver.executor.broken_token = None
    driver.add("again", list(range(13)))
    driver.run()
    assert driver.outputs["again", 0][0].num_cached_tokens < 12
    assert driver.tokens["again", 0][0] == 13


def test_a_bug_in_an_abort_does_not_reach_the_caller(drive: Drive, monkeypatch: Any) -> None:
    driver = drive()
    driver.add("a", [1])
    driver.add("b", [2])
    driver.step()

    def broken(seq: Any) -> None:
        raise ValueError("books")

    monkeypatch.setattr(driver.core.scheduler, "finish", broken)
    assert [output.finish_reason for output in driver.core.abort("a")] == ["error"]
    assert [(output.request_id, output.finish_reason) for output in driver.core.step()] == [("b", "error")]
    driver.add("c", [5], max_tokens=2)
    assert driver.run()["c", 0] == [6, 7]


def test_what_making_one_request_raises_is_its_own(drive: Drive, monkeypatch: Any) -> None:
    driver = drive()
    driver.add("a", [1], max_tokens=3)
    with monkeypatch.context() as patch:
        patch.setattr("quire.engine.core.make_request", lambda *_: 1 // 0)
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            driver.add("b", [1])
    driver.add("b", [2], max_tokens=1)
    assert driver.run() == {("a", 0): [2, 3, 4], ("b", 0): [3]}


@both_loops
@pytest.mark.parametrize(
    "changes", [{"prompt_logprobs": None}, {"tokens": [[1.5]]}, {"tokens": np.zeros((1, 1))}, {"tokens": None}]
)
def test_a_result_that_is_not_what_was_asked_for_ends_who_asked(
    drive: Drive, monkeypatch: Any, depth: int, changes: dict[str, Any]
) -> None:
    driver = drive(depth=depth)
    result = FakeStep.result

    def poor(step: FakeStep) -> StepResult:
        found = result(step)
        asked = step.batch.sampling is not None and step.batch.sampling.prompt_rows is not None
        return replace(found, **changes) if asked else found

    monkeypatch.setattr(FakeStep, "result", poor)
    driver.add("good", [1], max_tokens=6)
    driver.add("poor", [5, 6, 7], prompt_logprobs=1, max_tokens=3)
    assert driver.run()["good", 0] == [2, 3, 4, 5, 6, 7]
    assert driver.finish_reason("poor") == "error"
    assert "contract" in driver.outputs["poor", 0][-1].error.because


@both_loops
@pytest.mark.parametrize(
    "place",
    ["Scheduler.schedule", "Scheduler.offer_to_cache", "StepBuilder.build", "Scheduler.acquit", "Scheduler.finish"],
)
@pytest.mark.parametrize("always", [True, False])
def test_what_is_raised_between_the_devices_calls_ends_whose_it_is(
    drive: Drive, monkeypatch: Any, depth: int, place: str, always: bool
) -> None:
    """A bug that one request meets, whenever it is touched, or once: the others' tokens are as if it was not there."""
    expected = alone(drive, *WAVE)
    driver = drive(depth=depth, budget=8)
    owner_name, name = place.split(".")
    owner = {"Scheduler": Scheduler, "StepBuilder": StepBuilder}[owner_name]
    method, calls = getattr(owner, name), iter(range(10**9))

    def raising(self: Any, *arguments: Any) -> Any:
        touched = arguments[0] if arguments else self.suspects[:1] or [*self.running, *self.waiting]
        touched = [touched] if isinstance(touched, Sequence) else getattr(touched, "sequences", touched)
        if any(seq.request.request_id == "evil" for seq in touched) and (always or next(calls) == 2):
            raise ValueError("a bug")
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, raising)
    for number, (request_id, prompt, options) in enumerate(WAVE):
        driver.add(request_id, prompt, **options)
        if number == 0:
            driver.add("evil", [9, 9, 9], max_tokens=4)
    tokens = driver.run()
    assert {key: found for key, found in tokens.items() if key[0] != "evil"} == expected
    evil = driver.outputs["evil", 0][-1]
    if always:
        assert (evil.finish_reason, evil.error is not None) == ("error", True)
    elif place not in ("Scheduler.acquit", "Scheduler.finish"):
        assert tokens["evil", 0] == [10, 11, 12, 13]
