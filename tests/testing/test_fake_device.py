"""The fake device must notice what is wrong: each test breaks one rule of the contract."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import KVPlan
from quire.device.plugin import load_plugin
from quire.errors import BackendError, ConfigError
from quire.sampling.batch import SamplingBatch
from quire.testing import FakeDeviceFault, FakeExecutor, FakeFaults, fake_device, fake_executor, fake_model
from quire.testing.fake_device import quire_capabilities, quire_create_executor, quire_probe


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def draws(num_rows: int, temperature: float = 0.0) -> SamplingBatch:
    rows = np.arange(num_rows, dtype=np.int32)
    return SamplingBatch(
        rows,
        np.full(num_rows, temperature, np.float32),
        np.ones(num_rows, np.uint64),
        np.zeros(num_rows, np.uint32),
        rows,
    )


def one(
    token_ids: list[int],
    num_computed: int,
    table: list[int],
    *,
    prev_row: int = -1,
    copies: Any = None,
    sampling: SamplingBatch | None = None,
) -> StepBatch:
    """A step of one sequence that draws from its last token."""
    return StepBatch(
        step=0,
        token_ids=i32(*token_ids),
        query_start_loc=i32(0, len(token_ids)),
        num_computed=i32(num_computed),
        prev_row=i32(prev_row),
        groups={"full": GroupBatch(np.array([table], np.int32))},
        logits_indices=i32(len(token_ids) - 1),
        sampling=sampling or draws(1),
        copies={} if copies is None else {"full": np.array(copies, np.int32)},
    )


def make(num_blocks: int = 6, **options: Any) -> FakeExecutor:
    executor, _ = fake_executor(fake_model(10), num_blocks, **options)
    return executor


def run(executor: FakeExecutor, batch: StepBatch) -> list[int]:
    return executor.submit(batch).result().tokens[:, 0].tolist()


def test_the_next_token_is_the_last_plus_one() -> None:
    executor = make()
    assert run(executor, one([3, 4, 5, 6, 9], 0, [0, 1])) == [0]
    assert run(executor, one([0], 5, [0, 1])) == [1]


def test_tokens_in_flight_come_from_the_step_before() -> None:
    executor = make()
    first = executor.submit(one([3, 4], 0, [0]))
    second = executor.submit(one([-1], 2, [0], prev_row=0))
    assert first.result().tokens.tolist() == [[5]]
    assert second.result().tokens.tolist() == [[6]]


def test_a_warm_draw_depends_on_the_context() -> None:
    def token_after(context: list[int]) -> list[int]:
        executor, draw = make(), draws(1, 3.0)
        return [run(executor, one(context, 0, [0], sampling=replace(draw, position=i32(i))))[0] for i in range(8)]

    assert token_after([1, 2, 3]) == token_after([1, 2, 3])
    assert token_after([1, 2, 3]) != token_after([2, 2, 3])


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(one([5], 4, [2, 3]), id="a page of nobody"),
        pytest.param(one([5], 8, [1, 0, 2]), id="pages in the wrong order"),
        pytest.param(one([5], 8, [0, 4, 2]), id="another sequence's page"),
        pytest.param(one([5], 9, [0, 1, 2]), id="a position not yet computed"),
        pytest.param(one([5], 7, [1, 0]), id="a position computed before"),
        pytest.param(one([5], 8, [-1, 1, 2]), id="a page that is not resident"),
        pytest.param(one([5], 8, [0, 1, -1]), id="nowhere to write"),
        pytest.param(one([5], 8, [0, 1, 6]), id="a block outside the pool"),
        pytest.param(one([10], 8, [0, 1, 2]), id="a token outside the vocabulary"),
        pytest.param(one([-1], 8, [0, 1, 2]), id="a token in flight from nowhere"),
        pytest.param(one([-1], 8, [0, 1, 2], prev_row=1), id="a token in flight of a row that did not draw"),
        pytest.param(one([5], 8, [0, 1, 2], copies=[[0, 3], [3, 5]]), id="copies that depend on their order"),
        pytest.param(one([5], 8, [0, 1, 2], copies=[[0, 3], [1, 3]]), id="two copies to one block"),
        pytest.param(one([5], 8, [0, 1, 2], copies=[[9, 3]]), id="a copy from outside the pool"),
        pytest.param(one([5], 64, [0] * 17), id="longer than the model"),
        pytest.param(replace(one([5], 8, [0, 1, 2]), logits_indices=i32(1)), id="a logits row beyond the tokens"),
        pytest.param(replace(one([5, 6], 8, [0, 1, 2]), query_start_loc=i32(0, 1)), id="a token of nobody"),
        pytest.param(replace(one([5], 8, [0, 1, 2]), token_ids=i32(), query_start_loc=i32(0, 0)), id="nothing"),
    ],
)
def test_faults(batch: StepBatch) -> None:
    executor = make()
    run(executor, one([1, 2, 3, 4, 5, 6, 7, 8], 0, [0, 1]))
    run(executor, one([9, 2, 3, 4, 5, 6, 7, 8], 0, [3, 4]))
    with pytest.raises(FakeDeviceFault):
        run(executor, batch)


def test_the_right_step_is_no_fault() -> None:
    executor = make()
    run(executor, one([1, 2, 3, 4, 5, 6, 7, 8], 0, [0, 1]))
    run(executor, one([9, 2, 3, 4, 5, 6, 7, 8], 0, [3, 4]))
    assert run(executor, one([5], 8, [0, 1, 2], copies=[[0, 5]])) == [6]
    assert run(executor, one([6], 9, [5, 1, 2])) == [7]  # the copied page is as good as the first


def test_a_slot_with_two_writers_is_noticed() -> None:
    executor = make()
    batch = StepBatch(
        step=0,
        token_ids=i32(1, 2),
        query_start_loc=i32(0, 1, 2),
        num_computed=i32(0, 0),
        prev_row=i32(-1, -1),
        groups={"full": GroupBatch(np.array([[0], [0]], np.int32))},
        logits_indices=i32(0, 1),
        sampling=draws(2),
    )
    with pytest.raises(FakeDeviceFault, match="two writers"):
        run(executor, batch)


def test_groups_of_one_pool_do_not_read_each_others_pages() -> None:
    executor, _ = fake_executor(fake_model(10, windows={"full": 0, "sliding": 4}, shared_pool=True), 6)

    def batch(token: int, num_computed: int, full: int, sliding: int) -> StepBatch:
        tables = {"full": np.array([[full]], np.int32), "sliding": np.array([[sliding]], np.int32)}
        groups = {name: GroupBatch(block_tables) for name, block_tables in tables.items()}
        return replace(one([token], num_computed, [0]), groups=groups)

    run(executor, batch(1, 0, 0, 1))
    run(executor, batch(2, 1, 0, 1))
    with pytest.raises(FakeDeviceFault):
        run(executor, batch(3, 2, 1, 0))


def test_a_sliding_group_reads_only_its_window() -> None:
    executor, _ = fake_executor(fake_model(10, windows={"sliding": 4}), 6)

    def batch(tokens: list[int], num_computed: int, table: list[int]) -> StepBatch:
        return replace(one(tokens, num_computed, [0]), groups={"sliding": GroupBatch(np.array([table], np.int32))})

    run(executor, batch([1, 2, 3, 4, 5, 6, 7], 0, [0, 1]))
    assert run(executor, batch([8], 7, [-1, 1])) == [9]
    with pytest.raises(FakeDeviceFault, match="not resident"):
        run(executor, batch([8], 6, [-1, 1]))


def test_poison_acts_behind_the_steps_before_it() -> None:
    executor = make()
    step = executor.submit(one([1, 2], 0, [0]))
    executor.poison("full", i32(0))
    assert step.result().tokens.tolist() == [[3]]
    with pytest.raises(FakeDeviceFault):
        run(executor, one([3], 2, [0]))


def test_a_batch_changed_after_submit_is_noticed() -> None:
    executor = make()
    run(executor, one([1, 2, 3, 4], 0, [0]))
    batch = one([5], 4, [0, 1])
    step = executor.submit(batch)
    batch.groups["full"].block_tables[0, 0] = 3
    with pytest.raises(FakeDeviceFault):
        step.result()


def test_no_more_unread_steps_than_declared() -> None:
    executor = make(async_depth=1)
    executor.submit(one([1], 0, [0]))
    with pytest.raises(FakeDeviceFault, match="unread"):
        executor.submit(one([1], 0, [1]))


def test_injected_failures_and_the_steps_they_take_along() -> None:
    executor = make()
    executor.faults = FakeFaults({("submit", 0): "step", ("result", 0): "step"})
    with pytest.raises(BackendError, match="submit failed on the device"):
        executor.submit(one([1], 0, [0]))
    failed, lost = executor.submit(one([1], 0, [0])), executor.submit(one([1], 0, [1]))
    with pytest.raises(BackendError, match="failed on the device"):
        failed.result()
    with pytest.raises(BackendError, match="lost"):
        lost.result()
    assert run(executor, one([1], 0, [0])) == [2]


def test_memory_runs_out() -> None:
    executor = make()
    executor.memory_blocks = 9
    with pytest.raises(BackendError, match="out of memory"):
        executor.allocate_kv(KVPlan(num_blocks={"full": 10}))


def test_steps_take_their_time_one_after_another() -> None:
    executor = make(latency_s=0.02)
    start_s = time.monotonic()
    steps = [executor.submit(one([1], 0, [0])), executor.submit(one([1], 0, [1]))]
    submitted_s = time.monotonic() - start_s
    for step in steps:
        step.result()
    assert submitted_s < 0.02 <= 0.04 <= time.monotonic() - start_s


def test_blocks_survive_a_round_trip_over_the_host() -> None:
    executor = make()
    run(executor, one([1, 2, 3, 4, 5], 0, [0, 1]))
    pages = executor.read_blocks("full", i32(0, 1))
    assert pages["token_ids"].shape == (2, 1, 4)
    executor.poison("full", i32(0, 1))
    executor.write_blocks("full", i32(4, 2), pages)
    assert run(executor, one([6], 5, [4, 2])) == [7]


def test_the_plugin_hooks() -> None:
    report = quire_probe("fake", {})
    assert report.available
    assert report.priority < 0
    capabilities = quire_capabilities("fake", {"async_depth": "1"})
    assert capabilities.async_depth == 1
    plan = make().plan
    executor = quire_create_executor("fake", replace(plan, options={"memory_blocks": "3"}))
    with pytest.raises(BackendError, match="out of memory"):
        executor.allocate_kv(KVPlan(num_blocks={"full": 4}))
    with pytest.raises(ConfigError, match="speed"):
        quire_create_executor("fake", replace(plan, options={"speed": "9"}))


def test_unknown_options_are_refused_by_both_hooks() -> None:
    plugin = load_plugin("fake", lambda: fake_device)
    assert plugin.contract == (1, 2)
    assert plugin.capabilities("fake", {"async_depth": "3"}).async_depth == 3
    with pytest.raises(ConfigError, match="colour"):
        plugin.capabilities("fake", {"colour": "red"})
