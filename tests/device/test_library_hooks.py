"""The optional methods of an op library: each alone, on the reference's kernels, with the bits of a library without."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quire.device import (
    BackendError,
    ExecutorPlan,
    GraphExecutor,
    KVPlan,
    LikelyStep,
    PartKernel,
    RunStep,
    StepBuckets,
    StepContext,
    StepLayout,
    StepShape,
)
from quire.graph.interpret import PartRunner
from quire.graph.ir import Part
from quire.reference.device import ReferenceLibrary

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 4, 6, 26, 43]
TABLES = {"full": [3, 1, 4, 7, 8], "sliding": [9, 2, 6, 5, 10]}


class Hooked(ReferenceLibrary):
    """Attributes: log of what was called."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []


class Brackets(Hooked):
    def begin_step(self, context: StepContext) -> None:
        self.log.append(("begin", context.batch.num_tokens))

    def end_step(self, context: StepContext) -> None:
        self.log.append(("end", context.batch.num_tokens))


class OneCopy(Hooked):
    def put_step(self, vector: np.ndarray, layout: StepLayout) -> Mapping[str, np.ndarray]:
        self.log.append(vector.dtype)
        return layout.unpack(vector)


class WholeLayers(Hooked):
    """Takes layers whole, and leaves embed and heads to their nodes."""

    def lower_part(self, part: Part, plan: ExecutorPlan) -> PartKernel | None:
        if not part.caches:
            return None
        kernels = [self.lower(node, part.graph, plan) for node in part.graph.nodes]

        def kernel(context: StepContext, environment: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
            self.log.append(part.prefix)
            return PartRunner(part, kernels, weights)(environment, context)

        return kernel


class Buckets(Hooked):
    def step_buckets(self, plan: ExecutorPlan) -> StepBuckets:
        return StepBuckets.of(plan, tokens=4, seqs=2, blocks=2, logits=2, growth=2)

    def create_cache(self, group: Any, axis_sizes: Any, num_blocks: int, block_size: int, dtype: str) -> Any:
        self.log.append(num_blocks)
        return super().create_cache(group, axis_sizes, num_blocks, block_size, dtype)


class Captured(Buckets):
    def capture(self, shape: StepShape, run: RunStep) -> RunStep:
        self.log.append(shape)

        def replay(arrays: Mapping[str, Any]) -> Any:
            self.log.append("replay")
            return run(arrays)

        return replay


class Ends(Hooked):
    def warmup(self, plan: ExecutorPlan, likely: Sequence[LikelyStep]) -> None:
        self.log.append(likely)

    def close(self) -> None:
        self.log.append("close")


def answers(tiny: ModuleType, library: ReferenceLibrary, **changes: Any) -> tuple[Any, ...]:
    """Tokens and logits of two sequences over four steps."""
    plan = tiny.make_plan(**changes)
    executor = GraphExecutor(library, plan)
    executor.load(tiny.RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    executor.warmup([LikelyStep(8, 8)])
    driver = tiny.Driver(executor)
    first = tiny.Line(list(PROMPT), TABLES)
    second = tiny.Line(PROMPT[::-1], {"full": [0, 11, 12, 15], "sliding": [13, 14, 16, 17]})
    steps = ([(first, 9)], [(second, 5), (first, 1)], [(first, 4)], [(second, 1)])
    tokens = [driver.step(chunks).tolist() for chunks in steps]
    found = (tokens, driver.logits_of(first).tobytes(), driver.logits_of(second).tobytes())
    executor.close()
    executor.close()
    return found


@pytest.mark.parametrize("make", [Brackets, OneCopy, WholeLayers, Buckets, Captured, Ends])
@pytest.mark.parametrize("max_logits_rows", [3, 100])
def test_each_hook_gives_the_bits_of_a_library_without(
    tiny: ModuleType, make: Callable[[], Hooked], max_logits_rows: int
) -> None:
    library, plain = make(), ReferenceLibrary()
    found = answers(tiny, library, max_logits_rows=max_logits_rows)
    assert found == answers(tiny, plain, max_logits_rows=max_logits_rows)
    assert library.log


def test_brackets_stand_around_every_step(tiny: ModuleType) -> None:
    library = Brackets()
    answers(tiny, library)
    assert library.log == [(end, count) for count in (9, 6, 4, 1) for end in ("begin", "end")]


def test_a_step_is_one_copy(tiny: ModuleType) -> None:
    library = OneCopy()
    answers(tiny, library)
    assert library.log == [np.int32] * 4


def test_whole_layers_are_called_once_a_step(tiny: ModuleType) -> None:
    library = WholeLayers()
    answers(tiny, library)
    num_layers = len(tiny.build_model().layers)
    assert len(library.log) == 4 * num_layers
    assert len(set(library.log)) == num_layers


def test_a_failing_part_is_named(tiny: ModuleType) -> None:
    class Failing(WholeLayers):
        def lower_part(self, part: Part, plan: ExecutorPlan) -> PartKernel | None:
            def kernel(context: StepContext, environment: Any, weights: Any) -> Any:
                raise MemoryError("no room")

            return kernel if part.caches else None

    prefix = tiny.build_model().layers[0].prefix
    with pytest.raises(BackendError, match=rf"because: MemoryError: no room, part {prefix}"):
        answers(tiny, Failing())


def test_caches_have_a_trash_block_where_there_are_buckets(tiny: ModuleType) -> None:
    library = Buckets()
    answers(tiny, library)
    assert set(library.log) == {21}


def test_a_shape_is_captured_once_and_replayed(tiny: ModuleType) -> None:
    library = Captured()
    answers(tiny, library, max_logits_rows=100)
    shapes = [entry for entry in library.log if isinstance(entry, StepShape)]
    assert len(shapes) == len(set(shapes)) > 1
    assert library.log.count("replay") == 4
    one_slice = Captured()
    answers(tiny, one_slice, max_logits_rows=3)
    assert one_slice.log.count("replay") == 1, "steps whose head runs in slices are not replayed"


def test_warmup_comes_once_and_close_once(tiny: ModuleType) -> None:
    library = Ends()
    answers(tiny, library)
    assert library.log == [[LikelyStep(8, 8)], "close"]
