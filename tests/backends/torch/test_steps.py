"""Whole steps of the tiny model in torch against the reference: ragged batches, poisoned pages, blocks of -1."""

from __future__ import annotations

import numpy as np
import pytest

from quire.device.contract import Executor, ExecutorPlan, KVPlan
from quire.graph.ir import Cat, Src, Weight
from quire.graph.passes import optimize
from quire_torch import tiles
from quire_torch.plugin import CAPABILITIES, quire_create_executor
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
PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 43]
TABLES = (
    {"full": [3, 1, 4, 7, 8], "sliding": [9, 2, 6, 5, 10]},
    {"full": [0, 11, 12, 17], "sliding": [13, 14, 15, 16]},
)
STEPS = ([(0, 9)], [(1, 1), (0, 1)], [(0, 4), (1, 7)], [(1, 2), (0, 1)], [(0, 1), (1, 1)])


class JoinedWeights(RandomWeights):
    """`RandomWeights` that also joins what the merge pass put into one weight."""

    def read(self, weight: Weight) -> np.ndarray:
        if not isinstance(weight.source, Cat):
            return super().read(weight)
        parts = [Weight(part.name, part.shape, part) for part in weight.source.parts if isinstance(part, Src)]
        return np.concatenate([super(JoinedWeights, self).read(part) for part in parts], axis=weight.source.axis)


def _poisoned(plan: ExecutorPlan) -> Executor:
    """A loaded executor whose cache is full of NaN."""
    executor = quire_create_executor("torch", plan)
    executor.load(JoinedWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": NUM_BLOCKS}))
    nan = {name: np.full((NUM_BLOCKS, 1, BLOCK, KV_HEADS, HEAD_DIM), np.nan, np.float32) for name in "kv"}
    executor.write_blocks("full", np.arange(NUM_BLOCKS, dtype=np.int32), nan)
    return executor


def _lines() -> list[Line]:
    return [Line(PROMPT[:16], TABLES[0]), Line(PROMPT[::-1][:11], TABLES[1])]


def _logits(driver: Driver) -> list[np.ndarray]:
    lines = _lines()
    for step in STEPS:
        driver.step([(lines[index], count) for index, count in step])
    return [driver.logits_of(line) for line in lines]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1), ("float16", 0.01)])
def test_ragged_steps_give_the_references_logits(dtype: str, tolerance: float, fused: bool) -> None:
    model = optimize(build_model(), CAPABILITIES.fused_ops if fused else frozenset())
    plan = make_plan(model, weight_dtype=dtype, act_dtype=dtype, kv_dtype=dtype)
    plain = make_plan(weight_dtype=dtype, act_dtype=dtype, kv_dtype=dtype)
    for logits, expected in zip(_logits(Driver(_poisoned(plan))), _logits(reference_driver(plain)), strict=True):
        assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


def test_activations_may_be_wider_than_weights_and_cache() -> None:
    plan = make_plan(weight_dtype="bfloat16", kv_dtype="float16")
    for logits, expected in zip(_logits(Driver(_poisoned(plan))), _logits(reference_driver(plan)), strict=True):
        assert np.abs(logits - expected).max() <= 2e-3 * np.abs(expected).max()


def test_tiles_may_be_as_small_as_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _logits(Driver(_poisoned(make_plan())))
    monkeypatch.setattr(tiles, "_MOST_ELEMENTS", 1)
    for logits, expected in zip(_logits(Driver(_poisoned(make_plan()))), whole, strict=True):
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_blocks_that_left_the_window_may_be_gone() -> None:
    expected = _logits(reference_driver())[0]
    driver, line = Driver(_poisoned(make_plan())), _lines()[0]
    driver.step([(line, 14)])
    line.tables = {**line.tables, "sliding": [-1, -1, *line.tables["sliding"][2:]]}
    driver.step([(line, 1)])
    driver.step([(line, 1)])
    assert np.abs(driver.logits_of(line) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_row_without_a_block_writes_nothing_that_is_read() -> None:
    """The sliding layer's rows 4..7 have no block: they are written nowhere, and the last ones do not see them."""
    driver, line = Driver(_poisoned(make_plan())), _lines()[0]
    line.tables = {**line.tables, "sliding": [9, -1, 6, 5, 10]}
    before = driver.executor.read_blocks("full", np.arange(NUM_BLOCKS, dtype=np.int32))
    driver.step([(line, 16)])
    after = driver.executor.read_blocks("full", np.arange(NUM_BLOCKS, dtype=np.int32))
    touched = [
        block
        for block in range(NUM_BLOCKS)
        if not np.array_equal(before["k"][block], after["k"][block], equal_nan=True)
    ]
    assert sorted(touched) == sorted([*line.tables["full"][:4], 9, 6, 5])


def test_copies_come_first_and_do_not_see_each_other() -> None:
    driver, line = Driver(_poisoned(make_plan())), _lines()[0]
    driver.step([(line, 8)])
    before = driver.executor.read_blocks("full", np.array([3, 1], np.int32))
    driver.step([(line, 1)], copies={"full": np.array([[3, 18], [1, 3], [3, 1]], np.int32)})
    after = driver.executor.read_blocks("full", np.array([18, 3, 1], np.int32))
    np.testing.assert_array_equal(after["v"], before["v"][[0, 1, 0]])


def test_what_the_memory_report_says_is_held() -> None:
    plan = make_plan(weight_dtype="bfloat16")
    executor = quire_create_executor("torch", plan)
    report = executor.load(RandomWeights(plan.model), lambda done, total: None)
    sizes = plan.model.axis_sizes()
    weights = {
        w.source: np.prod([dim.evaluate(sizes) for dim in w.shape]) * 2
        for part in plan.model.parts()
        for w in part.graph.weights.values()
    }
    assert report.bytes_by_purpose == {"weights": sum(weights.values())}
    assert report.available_bytes > 0
    assert {where for _, where in report.placement} == {"torch"}
