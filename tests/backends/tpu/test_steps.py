"""Whole steps of the tiny model in JAX against the reference: ragged batches, poisoned pages, tokens on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from quire.device.contract import Executor, ExecutorPlan, KVPlan
from quire.errors import BackendError, InternalError
from quire.graph.ir import Cat, Src, Weight
from quire.graph.passes import optimize
from quire.sampling.batch import NOT_FINITE, SamplingBatch
from quire.sampling.sampler import sample as numpy_sample
from quire_tpu.plugin import quire_capabilities, quire_create_executor
from tests.device.conftest import (
    BLOCK,
    HEAD_DIM,
    KV_HEADS,
    Driver,
    Line,
    RandomWeights,
    build_model,
    make_plan,
    reference_driver,
)

NUM_BLOCKS = 20
OPTIONS = {"platform": "cpu"}
PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 43]
TABLES = (
    {"full": [3, 1, 4, 8, 19], "sliding": [9, 2, 6, 5, 10]},
    {"full": [0, 11, 12, 17], "sliding": [13, 14, 15, 16]},
)
STEPS = ([(0, 9)], [(1, 1), (0, 1)], [(0, 4), (1, 7)], [(1, 2), (0, 1)], [(0, 1), (1, 1)])
ALL_BLOCKS = np.arange(NUM_BLOCKS, dtype=np.int32)

Fresh = Callable[[], Driver]


class JoinedWeights(RandomWeights):
    """`RandomWeights` that also joins what the merge pass put into one weight."""

    def read(self, weight: Weight) -> np.ndarray:
        if not isinstance(weight.source, Cat):
            return super().read(weight)
        parts = [Weight(part.name, part.shape, part) for part in weight.source.parts if isinstance(part, Src)]
        return np.concatenate([super(JoinedWeights, self).read(part) for part in parts], axis=weight.source.axis)


def loaded(plan: ExecutorPlan, **options: str) -> Executor:
    executor = quire_create_executor("tpu", replace(plan, options={**OPTIONS, **options}))
    executor.load(JoinedWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": NUM_BLOCKS}))
    return executor


def poison(executor: Executor) -> None:
    nan = {name: np.full((NUM_BLOCKS, 1, BLOCK, KV_HEADS, HEAD_DIM), np.nan, np.float32) for name in "kv"}
    executor.write_blocks("full", ALL_BLOCKS, nan)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    """One for the module: every executor compiles its own programs."""
    executor = loaded(make_plan(max_logits_rows=32))
    yield executor
    executor.close()


@pytest.fixture
def driver(executor: Executor) -> Driver:
    """A driver over a cache full of NaN."""
    poison(executor)
    return Driver(executor)


def lines() -> list[Line]:
    return [Line(PROMPT[:16], TABLES[0]), Line(PROMPT[::-1][:11], TABLES[1])]


def logits_of_steps(driver: Driver) -> list[np.ndarray]:
    both = lines()
    for step in STEPS:
        driver.step([(both[index], count) for index, count in step])
    return [driver.logits_of(line) for line in both]


def test_ragged_steps_give_the_references_logits(driver: Driver) -> None:
    for logits, expected in zip(logits_of_steps(driver), logits_of_steps(reference_driver()), strict=True):
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_bfloat16_and_the_fused_graph_and_a_head_in_slices() -> None:
    dtypes = {"weight_dtype": "bfloat16", "act_dtype": "bfloat16", "kv_dtype": "bfloat16"}
    fused = optimize(build_model(), quire_capabilities("tpu", OPTIONS).fused_ops)
    driver = Driver(loaded(make_plan(fused, max_logits_rows=3, **dtypes)))
    expected_logits = logits_of_steps(reference_driver(make_plan(**dtypes)))
    for logits, expected in zip(logits_of_steps(driver), expected_logits, strict=True):
        assert np.abs(logits - expected).max() <= 0.1 * np.abs(expected).max()


def test_blocks_that_left_the_window_may_be_gone(driver: Driver) -> None:
    expected = logits_of_steps(reference_driver())[0]
    line = lines()[0]
    driver.step([(line, 14)])
    line.tables = {**line.tables, "sliding": [-1, -1, *line.tables["sliding"][2:]]}
    driver.step([(line, 1)])
    driver.step([(line, 1)])
    assert np.abs(driver.logits_of(line) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_only_the_tables_blocks_are_written(driver: Driver) -> None:
    """Padding tokens, and the sliding layer's rows 4..7, which have no block, are written to nobody's block."""
    line = lines()[0]
    line.tables = {**line.tables, "sliding": [9, -1, 6, 5, 10]}
    before = driver.executor.read_blocks("full", ALL_BLOCKS)
    driver.step([(line, 16)])
    after = driver.executor.read_blocks("full", ALL_BLOCKS)
    touched = [
        block
        for block in range(NUM_BLOCKS)
        if not np.array_equal(before["k"][block], after["k"][block], equal_nan=True)
    ]
    assert sorted(touched) == sorted([*line.tables["full"][:4], 9, 6, 5])


def test_copies_come_first_and_do_not_see_each_other(driver: Driver) -> None:
    line = lines()[0]
    driver.step([(line, 8)])
    before = driver.executor.read_blocks("full", np.array([3, 1], np.int32))
    driver.step([(line, 1)], copies={"full": np.array([[3, 18], [1, 3], [3, 1]], np.int32)})
    after = driver.executor.read_blocks("full", np.array([18, 3, 1], np.int32))
    np.testing.assert_array_equal(after["v"], before["v"][[0, 1, 0]])


def test_pages_come_back_as_they_were_written(driver: Driver) -> None:
    rng = np.random.default_rng(0)
    pages = {name: rng.standard_normal((2, 1, BLOCK, KV_HEADS, HEAD_DIM)).astype(np.float32) for name in "kv"}
    driver.executor.write_blocks("sliding", np.array([7, 2], np.int32), pages)
    for name, page in driver.executor.read_blocks("sliding", np.array([2, 7], np.int32)).items():
        np.testing.assert_array_equal(page, pages[name][::-1])


def test_the_cache_is_updated_in_place(driver: Driver) -> None:
    held = driver.executor._kv.arrays["full"]["k"]  # type: ignore[attr-defined]
    address = held.unsafe_buffer_pointer()
    driver.step([(lines()[0], 5)])
    after = driver.executor._kv.arrays["full"]["k"]  # type: ignore[attr-defined]
    assert held.is_deleted()
    assert after.unsafe_buffer_pointer() == address


def test_tokens_are_fed_back_without_being_read(driver: Driver) -> None:
    """Two sequences change places between steps whose tokens nobody has read yet."""
    slow = lines()
    expected: list[list[int]] = [[], []]
    for order in ([0, 1], [1, 0], [0, 1]):
        drawn = driver.step([(slow[i], 6 if not expected[i] else 1) for i in order])
        for row, i in enumerate(order):
            expected[i].append(int(drawn[row]))
            slow[i].tokens = [*slow[i].tokens[: slow[i].num_computed], expected[i][-1]]
    poison(driver.executor)
    fast, results, pending = lines(), [], []
    for number, order in enumerate(([0, 1], [1, 0], [0, 1])):
        chunks = [(fast[i], 1 if number else 6) for i in order]
        batch = driver.batch(chunks)
        if number:
            batch = replace(batch, token_ids=np.full(2, -1, np.int32), prev_row=np.array([1, 0], np.int32))
        pending.append(driver.executor.submit(batch))
        for line, count in chunks:
            line.num_computed += count
            line.tokens.append(0)
        if len(pending) == 2:
            results.append(pending.pop(0).result().tokens[:, 0])
    results.append(pending.pop().result().tokens[:, 0])
    assert [list(row) for row in results] == [
        [expected[0][0], expected[1][0]],
        [expected[1][1], expected[0][1]],
        [expected[0][2], expected[1][2]],
    ]


def test_tokens_that_the_host_draws_reach_the_next_step(driver: Driver) -> None:
    line = lines()[0]
    drawing = SamplingBatch(
        rows=np.array([3], np.int32),
        temperature=np.array([1.5], np.float32),
        seed=np.array([2**63 + 11], np.uint64),
        sequence_index=np.zeros(1, np.uint32),
        position=np.array([4], np.int32),
        num_logprobs=np.array([2], np.int32),
    )
    first = driver.executor.submit(driver.batch([(line, 4)], sampling=drawing))
    line.num_computed = 4
    second = driver.executor.submit(
        driver.batch([(line, 1)], token_ids=np.array([-1], np.int32), prev_row=np.array([0], np.int32))
    )
    with pytest.raises(InternalError, match="unread"):
        driver.executor.submit(driver.batch([(line, 1)]))
    drawn = first.result()
    assert drawn.logits is not None
    assert drawn.logprobs is not None
    assert drawn.tokens[0, 0] == numpy_sample(drawn.logits, drawing).tokens[0]
    fed = second.result().logits
    line.num_computed, line.tokens = 4, [*line.tokens[:4], int(drawn.tokens[0, 0])]
    again = driver.executor.submit(driver.batch([(line, 1)])).result().logits
    np.testing.assert_array_equal(fed, again)


def test_broken_logits_name_their_row(driver: Driver) -> None:
    line = lines()[0]
    line.num_computed = 4  # its first block was never written and is full of NaN
    assert driver.executor.submit(driver.batch([(line, 1)])).result().tokens.tolist() == [[NOT_FINITE]]


def test_a_closed_executor_says_so() -> None:
    executor = quire_create_executor("tpu", make_plan(options=OPTIONS))
    executor.close()
    executor.close()
    with pytest.raises(BackendError, match="closed"):
        executor.allocate_kv(KVPlan(num_blocks={"kv": 4}))
