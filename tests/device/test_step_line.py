"""The step line with a device that is a list: order, depth, fed-back tokens, errors, interrupts, closing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.device.batch import StepBatch, StepResult
from quire.device.step_line import StepLine
from quire.errors import BackendError, InternalError


class Device:
    """Steps of one token a sequence; each draws 10 * step + row. `log` is what happened, in order.

    Attributes:
        keeps_tokens: it feeds the next step itself. faults: (stage, step) -> what is raised there, once.
    """

    def __init__(self, *, async_depth: int = 2, keeps_tokens: bool = False) -> None:
        self.line = StepLine("toy", async_depth, self.start)
        self.keeps_tokens = keeps_tokens
        self.log: list[tuple[str, int]] = []
        self.took: dict[int, list[int]] = {}
        self.fed: dict[int, Any] = {}
        self.faults: dict[tuple[str, int], BaseException] = {}

    def start(self, batch: StepBatch, tokens: Any) -> Started:
        self.note("start", batch.step)
        self.took[batch.step], self.fed[batch.step] = batch.token_ids.tolist(), tokens
        return Started(self, batch)

    def note(self, stage: str, step: int) -> None:
        self.log.append((stage, step))
        if (stage, step) in self.faults:
            raise self.faults.pop((stage, step))


class Started:
    def __init__(self, device: Device, batch: StepBatch) -> None:
        self.device, self.batch = device, batch
        self.tokens = f"tokens of {batch.step}" if device.keeps_tokens else None

    def finish(self) -> StepResult:
        self.device.note("finish", self.batch.step)
        rows = np.arange(self.batch.num_seqs, dtype=np.int32)
        return StepResult(10 * self.batch.step + rows[:, None], np.ones_like(rows))


def step(number: int, token_ids: list[int], prev_row: list[int] | None = None) -> StepBatch:
    count = len(token_ids)
    return StepBatch(
        step=number,
        token_ids=np.array(token_ids, np.int32),
        query_start_loc=np.arange(count + 1, dtype=np.int32),
        num_computed=np.zeros(count, np.int32),
        prev_row=np.array(prev_row or [-1] * count, np.int32),
        groups={},
        logits_indices=np.arange(count, dtype=np.int32),
    )


def tokens_of(result: StepResult) -> list[int]:
    return [int(token) for token in result.tokens[:, 0]]


def test_results_are_made_in_the_order_of_submission() -> None:
    device = Device()
    first, second = device.line.submit(step(0, [5])), device.line.submit(step(1, [6, 7]))
    assert tokens_of(second.result()) == [10, 11]
    assert tokens_of(first.result()) == [0]
    assert device.log == [("start", 0), ("start", 1), ("finish", 0), ("finish", 1)]


def test_no_more_unread_steps_than_the_depth() -> None:
    device = Device()
    first, _ = device.line.submit(step(0, [5])), device.line.submit(step(1, [6]))
    with pytest.raises(InternalError, match=r"over 2 unread ones\n  because: async_depth is 2"):
        device.line.submit(step(2, [7]))
    first.result()
    device.line.submit(step(2, [7]))


def test_tokens_are_fed_from_the_result_where_the_device_keeps_none() -> None:
    device = Device()
    device.line.submit(step(0, [5, 6, 7]))
    device.line.submit(step(1, [-1, 9, -1], [2, -1, 0]))
    assert device.took[1] == [2, 9, 0]
    assert device.log == [("start", 0), ("finish", 0), ("start", 1)]


def test_tokens_stay_on_a_device_that_keeps_them() -> None:
    device = Device(keeps_tokens=True)
    device.line.submit(step(0, [5]))
    device.line.submit(step(1, [-1], [0]))
    assert (device.took[1], device.fed) == ([-1], {0: None, 1: "tokens of 0"})
    assert ("finish", 0) not in device.log


def test_a_broken_rows_token_is_fed_as_0(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setattr(Started, "finish", lambda self: StepResult(np.array([[-2]], np.int32), np.ones(1, np.int32)))
    device.line.submit(step(0, [5]))
    device.line.submit(step(1, [-1], [0]))
    assert device.took[1] == [0]


@pytest.mark.parametrize(("rows", "what"), [([0], "no step before"), ([-1], "no row in the step before")])
def test_tokens_of_nobody_fail_the_step(rows: list[int], what: str) -> None:
    pending = Device().line.submit(step(0, [-1], rows))
    with pytest.raises(BackendError, match=what):
        pending.result()


@pytest.mark.parametrize("stage", ["start", "finish"])
def test_whatever_a_device_raises_comes_out_of_the_result(stage: str, caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    cause = ValueError("no such row")
    cause.add_note("part layers.3, node 5 (linear)")
    device.faults[stage, 0] = cause
    pending = device.line.submit(step(0, [5]))
    with caplog.at_level(logging.DEBUG, "quire"), pytest.raises(BackendError) as caught:
        pending.result()
    assert str(caught.value).splitlines()[:2] == [
        "step 0 failed on device toy",
        "  because: ValueError: no such row, part layers.3, node 5 (linear)",
    ]
    assert caught.value.__cause__ is cause
    assert tokens_of(device.line.submit(step(1, [6])).result()) == [10]


def test_the_traceback_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    device.faults["finish", 0] = ValueError("no such row")
    with caplog.at_level(logging.DEBUG, "quire"), pytest.raises(BackendError):
        device.line.submit(step(0, [5])).result()
    assert "in finish" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("stage", ["start", "finish"])
def test_a_step_fed_by_a_failed_one_fails_with_its_error(stage: str) -> None:
    device = Device()
    device.faults[stage, 0] = ValueError("boom")
    first, second = device.line.submit(step(0, [5])), device.line.submit(step(1, [-1], [0]))
    for pending in (first, second):
        with pytest.raises(BackendError, match="step 0 failed on device toy"):
            pending.result()


def test_an_interrupted_start_leaves_no_step() -> None:
    device = Device(async_depth=1)
    for number in range(3):
        device.faults["start", number] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            device.line.submit(step(number, [5]))
    assert tokens_of(device.line.submit(step(3, [5])).result()) == [30]


def test_an_interrupted_result_may_be_read_again() -> None:
    device = Device()
    first, second = device.line.submit(step(0, [5])), device.line.submit(step(1, [6]))
    device.faults["finish", 0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        second.result()
    assert (tokens_of(second.result()), tokens_of(first.result())) == ([10], [0])


@pytest.mark.parametrize("use", [lambda line: line.submit(step(1, [5])), StepLine.refuse_closed])
def test_a_closed_line_drops_what_was_not_read(use: Callable[[StepLine], object]) -> None:
    device = Device()
    pending = device.line.submit(step(0, [5]))
    device.line.close()
    device.line.close()
    with pytest.raises(BackendError, match=r"step 0 was dropped\n  because: the executor was closed before"):
        pending.result()
    with pytest.raises(BackendError, match="executor of device toy is closed"):
        use(device.line)


def test_all_steps_can_be_waited_for_and_read_later() -> None:
    device = Device()
    device.faults["finish", 1] = ValueError("boom")
    first, second = device.line.submit(step(0, [5])), device.line.submit(step(1, [6]))
    device.line.finish_all()
    assert device.log[2:] == [("finish", 0), ("finish", 1)]
    assert tokens_of(first.result()) == [0]
    with pytest.raises(BackendError, match="boom"):
        second.result()
