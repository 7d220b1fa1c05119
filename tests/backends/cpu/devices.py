"""Executors of the cpu and the reference device over the tiny model of tests/device, and over graphs of one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import Executor, ExecutorPlan, KVPlan, WeightSource
from quire.device.registry import resolve_device
from quire.graph.ir import Axis, CacheArray, CacheRef, KVGroupSpec, ModelGraph, Src, Value, Weight
from quire.graph.shapes import DimLike, T, shape_of
from quire.graph.trace import Tracer
from tests.device.conftest import Driver, RandomWeights, make_plan

BLOCK_SIZE = 16
OPTIONS = {"poison": "true", "threads": "2"}


def executor_of(device: str, plan: ExecutorPlan, weights: WeightSource | None = None, num_blocks: int = 24) -> Executor:
    """A loaded executor with its cache."""
    executor = resolve_device(device).create_executor(plan)
    executor.load(weights or RandomWeights(plan.model), lambda done, total: None)
    pools = {group.pool for group in plan.model.kv_groups.values()}
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys(pools, num_blocks)))
    return executor


def cpu_plan(**changes: Any) -> ExecutorPlan:
    """The tiny model for the cpu device, its memory poisoned."""
    return make_plan(**{"block_size": BLOCK_SIZE, "options": OPTIONS, **changes})


def cpu_driver(**changes: Any) -> Driver:
    """A driver over a fresh cpu executor of the tiny model."""
    return Driver(executor_of("cpu", cpu_plan(**changes)))


# ---- one node ---------------------------------------------------------------------------------------------

Body = Callable[["OneNode", Value], Value]


class OneNode:
    """Traces a layer around one op; `weight` makes parameters, `cache` and `positions` are the layer's inputs."""

    def __init__(self, kv_heads: int, head_dim: int) -> None:
        self.t = Tracer()
        self.cache = self.t.cache("kv", CacheRef("full", 0))
        self.positions = self.t.input("positions", (T,), "i32")
        self.kv_heads, self.head_dim = kv_heads, head_dim

    def weight(self, name: str, *shape: DimLike) -> Weight:
        return self.t.weight(name, shape, Src(name, shape_of(*shape)))


def one_node_model(body: Body, width: int, *, window: int = 0, kv_heads: int = 2, head_dim: int = 16) -> ModelGraph:
    """token ids -> rows of a random table [T, width] -> `body` -> its rows as logits [L, n]."""
    embed = Tracer()
    table = embed.weight("table", ("vocab", width), Src("table", shape_of("vocab", width)))
    embed.output("hidden", embed.embedding(embed.input("token_ids", (T,), "i32"), table))
    node = OneNode(kv_heads, head_dim)
    result = body(node, node.t.input("hidden", (T, width)))
    flat = np.prod([dim.evaluate({}) for dim in result.shape[1:]])
    node.t.output("result", node.t.reshape(result, shape=shape_of(T, int(flat))))
    node.t.output("kv", node.cache)
    head = Tracer()
    rows = head.input("logits_indices", ("L",), "i32")
    head.output("logits", head.take_rows(head.input("result", (T, int(flat)), result.dtype), rows))
    arrays = tuple(CacheArray(name, shape_of(kv_heads, head_dim)) for name in ("k", "v"))
    return ModelGraph(
        embed.part("embed."),
        (node.t.part("layer."),),
        {"logits": head.part("head.")},
        {"vocab": Axis(64)},
        {"full": KVGroupSpec("full", window, arrays, 1, "kv")},
    )


class NormalWeights:
    """A WeightSource of normal numbers by tensor name, whatever their shape."""

    total_bytes = 0

    def __init__(self, model: ModelGraph) -> None:
        self._sizes = model.axis_sizes()

    def read(self, weight: Weight) -> np.ndarray:
        assert isinstance(weight.source, Src)
        shape = tuple(dim.evaluate(self._sizes) for dim in weight.source.shape)
        rng = np.random.default_rng(sum(map(ord, weight.source.name)))
        array = rng.standard_normal(shape).astype(np.float32)
        return array if weight.source.name == "table" or len(shape) == 1 else array / np.sqrt(np.float32(shape[-1]))


def one_node_logits(
    device: str, model: ModelGraph, steps: Sequence[Sequence[tuple[int, int]]], **changes: Any
) -> np.ndarray:
    """Logits of all rows of all steps; a step is a list of (sequence, number of its next tokens)."""
    options = OPTIONS if device == "cpu" else {}
    plan = make_plan(model, **{"block_size": BLOCK_SIZE, "options": options, **changes})
    executor = executor_of(device, plan, NormalWeights(model))
    computed: dict[int, int] = {}
    rng = np.random.default_rng(5)
    logits = []
    for index, chunks in enumerate(steps):
        lengths = [length for _, length in chunks]
        starts = np.cumsum([0, *lengths]).astype(np.int32)
        tables = np.array([[sequence * 4 + block for block in (3, 0, 2, 1)] for sequence, _ in chunks], np.int32)
        batch = StepBatch(
            step=index,
            token_ids=rng.integers(0, 64, starts[-1]).astype(np.int32),
            query_start_loc=starts,
            num_computed=np.array([computed.get(sequence, 0) for sequence, _ in chunks], np.int32),
            prev_row=np.full(len(chunks), -1, np.int32),
            groups={"full": GroupBatch(tables)},
            logits_indices=np.arange(starts[-1], dtype=np.int32),
        )
        for sequence, length in chunks:
            computed[sequence] = computed.get(sequence, 0) + length
        result = executor.submit(batch).result()
        assert result.logits is not None
        logits.append(result.logits)
    executor.close()
    return np.concatenate(logits)
