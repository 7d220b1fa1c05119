"""StepExecutor with a small subclass that runs the reference's kernels: padded steps give the exact ones' bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quire.device import (
    BackendError,
    ExecutorPlan,
    InternalError,
    KVPlan,
    LoadProgress,
    MemoryReport,
    PaddedStep,
    PoolArray,
    StepBuckets,
    StepExecutor,
    WeightSource,
    numpy_dtype,
)
from quire.graph.interpret import PartRunner
from quire.graph.ir import Part
from quire.reference.device import CAPABILITIES
from quire.reference.lowering import lower_reference
from quire.sampling.batch import NOT_FINITE

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 43]
TABLES = {"full": [3, 1, 4, 7, 8], "sliding": [9, 2, 6, 5, 10]}


class SmallExecutor(StepExecutor):
    """Attributes: shapes of every step; `broken` makes the trunk raise."""

    def __init__(self, plan: ExecutorPlan, async_depth: int = 2) -> None:
        buckets = StepBuckets.of(plan, tokens=4, seqs=2, blocks=2, logits=2, growth=2)
        super().__init__("small", plan, replace(CAPABILITIES, async_depth=async_depth), buckets)
        self.shapes: list[tuple[int, int, int, int]] = []
        self.freed = 0
        self.broken: Exception | None = None
        self._runners: dict[str, PartRunner] = {}

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        for part in self.plan.model.parts():
            bound = {name: weights.read(weight) for name, weight in part.graph.weights.items()}
            kernels = [lower_reference(node, part.graph, self.plan) for node in part.graph.nodes]
            self._runners[part.prefix] = PartRunner(part, kernels, bound)
        return MemoryReport(bytes_by_purpose={}, available_bytes=2**30)

    def create_pool(self, arrays: Mapping[str, PoolArray]) -> dict[str, np.ndarray]:
        return {name: np.full(array.shape, 7, numpy_dtype(array.dtype)) for name, array in arrays.items()}

    def run_trunk(self, step: PaddedStep) -> dict[str, Any]:
        if self.broken is not None:
            raise self.broken
        shape = step.shape
        self.shapes.append((shape.tokens, shape.seqs, shape.blocks, shape.logits))
        assert step.batch.token_ids.min() >= 0
        environment = step.environment()
        for part in (self.plan.model.embed, *self.plan.model.layers):
            environment |= self._run(part, environment, step)
        return environment

    def run_head(self, trunk: dict[str, Any], step: PaddedStep, rows: np.ndarray) -> np.ndarray:
        assert len(rows) == step.shape.logits
        return self._run(self.plan.model.heads["logits"], {**trunk, "logits_indices": rows}, step)["logits"]

    def free(self) -> None:
        self.freed += 1

    def _run(self, part: Part, environment: Mapping[str, Any], step: PaddedStep) -> dict[str, Any]:
        caches = {name: self.cache(ref) for name, ref in part.caches.items()}
        outputs = self._runners[part.prefix]({**environment, **caches}, step.context)
        return {name: value for name, value in outputs.items() if name not in caches}


def small_driver(tiny: ModuleType, async_depth: int = 2, **changes: Any) -> Any:
    plan = tiny.make_plan(**changes)
    executor = SmallExecutor(plan, async_depth)
    executor.load(tiny.RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    return tiny.Driver(executor)


@pytest.mark.parametrize("async_depth", [1, 2])
def test_padded_steps_give_the_bits_of_exact_ones(tiny: ModuleType, async_depth: int) -> None:
    small, exact = small_driver(tiny, async_depth), tiny.reference_driver()
    answers = []
    for driver in (small, exact):
        first = tiny.Line(list(PROMPT), TABLES)
        second = tiny.Line(PROMPT[::-1], {"full": [0, 11, 12, 15], "sliding": [13, 14, 16, 17]})
        tokens = [driver.step(chunks).tolist() for chunks in ([(first, 9)], [(second, 5), (first, 1)], [(first, 4)])]
        answers.append((tokens, driver.logits_of(first), driver.logits_of(second)))
    assert answers[0][0] == answers[1][0]
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
    np.testing.assert_array_equal(answers[0][2], answers[1][2])
    assert small.executor.shapes == [(16, 2, 8, 3), (8, 4, 8, 3), (4, 2, 8, 3)]


def test_the_head_runs_in_slices(tiny: ModuleType) -> None:
    wide, narrow = small_driver(tiny, max_logits_rows=100), small_driver(tiny, max_logits_rows=1)
    lines = [tiny.Line(list(PROMPT), TABLES) for _ in range(2)]
    for driver, line in zip((wide, narrow), lines, strict=True):
        driver.step([(line, 17)])
    np.testing.assert_array_equal(wide.logits_of(lines[0]), narrow.logits_of(lines[1]))


def test_tokens_are_fed_on_the_queue(tiny: ModuleType) -> None:
    driver, line = small_driver(tiny), tiny.Line(list(PROMPT), TABLES)
    pending = driver.executor.submit(driver.batch([(line, 17)]))
    line.num_computed = 17
    line.tokens.append(-1)
    following = driver.executor.submit(driver.batch([(line, 1)], prev_row=np.array([0], np.int32)))
    token = int(pending.result().tokens[0, 0])
    logits = following.result().logits
    alone, whole = small_driver(tiny), tiny.Line([*PROMPT, token], TABLES)
    alone.step([(whole, 18)])
    np.testing.assert_array_equal(logits, alone.logits_of(whole)[-1:])


def test_a_step_that_fails_fails_the_one_it_feeds_and_nothing_else(tiny: ModuleType) -> None:
    driver, line = small_driver(tiny), tiny.Line(list(PROMPT), TABLES)
    driver.executor.broken = MemoryError("no room")
    pending = driver.executor.submit(driver.batch([(line, 17)]))
    following = driver.executor.submit(
        driver.batch([(tiny.Line([-1], TABLES), 1)], prev_row=np.array([0], np.int32), step=1)
    )
    with pytest.raises(BackendError, match=r"step 0 failed on device small\n  because: MemoryError: no room"):
        pending.result()
    driver.executor.broken = None
    with pytest.raises(BackendError):
        following.result()
    driver.step([(line, 17)])
    assert np.isfinite(driver.logits_of(line)).all()


def test_a_fork_continues_from_copies(tiny: ModuleType) -> None:
    driver, line = small_driver(tiny), tiny.Line(list(PROMPT), TABLES)
    driver.step([(line, 10)])
    tables = {"full": [11, 12, 13, 14, 15], "sliding": [16, 17, 18, 19, 0]}
    fork = tiny.Line(list(PROMPT), tables, 10)
    copies = {g: np.array(list(zip(TABLES[g][:3], tables[g][:3], strict=True)), np.int32) for g in TABLES}
    driver.step([(fork, 7)], copies=copies)
    whole, alone = tiny.Line(list(PROMPT), TABLES), small_driver(tiny)
    alone.step([(whole, 17)])
    np.testing.assert_array_equal(driver.logits_of(fork), alone.logits_of(whole)[10:])


def test_pages_move_a_sequence_and_poison_ends_its_row(tiny: ModuleType) -> None:
    source, line = small_driver(tiny), tiny.Line(list(PROMPT), TABLES)
    source.step([(line, 12)])
    target, tables = small_driver(tiny), {"full": [0, 2, 5, 6, 9], "sliding": [1, 3, 4, 7, 8]}
    moved = tiny.Line(list(PROMPT), tables, 12)
    for group in TABLES:
        pages = source.executor.read_blocks(group, np.array(TABLES[group][:3]))
        assert pages["k"].shape == (3, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM)
        target.executor.write_blocks(group, np.array(tables[group][:3]), pages)
    source.step([(line, 5)])
    target.step([(moved, 5)])
    np.testing.assert_array_equal(target.logits_of(moved), source.logits_of(line)[12:])
    poison = {name: np.full((1, 1, tiny.BLOCK, tiny.KV_HEADS, tiny.HEAD_DIM), np.nan, np.float32) for name in "kv"}
    target.executor.write_blocks("full", np.array([0]), poison)
    moved.tokens.append(5)
    assert target.step([(moved, 1)]).tolist() == [NOT_FINITE]


def test_what_is_missing_is_named(tiny: ModuleType) -> None:
    plan = tiny.make_plan()
    with pytest.raises(BackendError, match="pool 'kv'"):
        SmallExecutor(plan).allocate_kv(KVPlan(num_blocks={"other": 3}))
    with pytest.raises(InternalError, match="before allocate_kv"):
        SmallExecutor(plan).read_blocks("full", np.array([0]))


def test_closing_twice_and_with_a_step_in_flight(tiny: ModuleType) -> None:
    driver, line = small_driver(tiny), tiny.Line(list(PROMPT), TABLES)
    pending = driver.executor.submit(driver.batch([(line, 17)]))
    driver.executor.close()
    driver.executor.close()
    assert driver.executor.freed == 1
    for use in (pending.result, lambda: driver.step([(line, 17)]), lambda: driver.executor.read_blocks("full", [0])):
        with pytest.raises(BackendError, match="closed"):
            use()
