"""A two-layer model built by hand (one full and one sliding layer), its weights, and a driver for its steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import numpy as np
import pytest

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import Executor, ExecutorPlan, KVPlan
from quire.device.graph_executor import GraphExecutor
from quire.graph.ir import Axis, CacheArray, CacheRef, Cat, KVGroupSpec, ModelGraph, Part, Src, Weight
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, T, concrete, shape_of
from quire.graph.trace import Tracer
from quire.reference.device import ReferenceLibrary
from quire.sampling.batch import SamplingBatch

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, WINDOW, BLOCK = 50, 32, 4, 2, 8, 48, 5, 4
ROPE = RopeSpec(theta=10000.0, dims=HEAD_DIM)


def _src(name: str, *shape: int | str | Dim) -> Src:
    return Src(name, shape_of(*shape))


def _weight(t: Tracer, prefix: str, name: str, *shape: int | str | Dim) -> Weight:
    return t.weight(name, shape, _src(prefix + name, *shape))


def _layer(index: int, group: str, slot: int, window: int) -> Part:
    t, p = Tracer(), f"layers.{index}."
    heads, kv_heads = Dim.of("heads"), Dim.of("kv_heads")
    x, positions = t.input("hidden", (T, HIDDEN)), t.input("positions", (T,), "i32")
    cache = t.cache("kv", CacheRef(group, slot))
    normed = t.rms_norm(x, _weight(t, p, "norm1", HIDDEN), eps=1e-6, round_before_weight=True)
    qkv = t.linear(normed, _weight(t, p, "qkv", heads * HEAD_DIM + kv_heads * (2 * HEAD_DIM), HIDDEN))
    q, k, v = t.split(qkv, sizes=(heads * HEAD_DIM, kv_heads * HEAD_DIM, kv_heads * HEAD_DIM))
    q = t.rotary(t.reshape(q, shape=shape_of(T, "heads", HEAD_DIM)), positions, table=ROPE)
    k = t.rotary(t.reshape(k, shape=shape_of(T, "kv_heads", HEAD_DIM)), positions, table=ROPE)
    cache = t.cache_write(cache, k, t.reshape(v, shape=shape_of(T, "kv_heads", HEAD_DIM)))
    attended = t.paged_attention(q, cache, scale=HEAD_DIM**-0.5, window=window)
    flat = t.reshape(attended, shape=shape_of(T, heads * HEAD_DIM))
    x = t.add(x, t.linear(flat, _weight(t, p, "o", HIDDEN, heads * HEAD_DIM)))
    normed = t.rms_norm(x, _weight(t, p, "norm2", HIDDEN), eps=1e-6)
    gate = t.linear(normed, _weight(t, p, "gate", "mlp", HIDDEN))
    up = t.linear(normed, _weight(t, p, "up", "mlp", HIDDEN))
    down = t.linear(t.gated_activation(gate, up, act="silu"), _weight(t, p, "down", HIDDEN, "mlp"))
    t.output("hidden", t.add(x, down))
    t.output("kv", cache)
    return t.part(p)


def _embed() -> Part:
    t = Tracer()
    t.output("hidden", t.embedding(t.input("token_ids", (T,), "i32"), _weight(t, "", "embed", "vocab", HIDDEN)))
    return t.part("embed.")


def _head() -> Part:
    t = Tracer()
    x, rows = t.input("hidden", (T, HIDDEN)), t.input("logits_indices", ("L",), "i32")
    normed = t.rms_norm(t.take_rows(x, rows), _weight(t, "", "norm", HIDDEN), eps=1e-6)
    tied = t.weight("head", ("vocab", HIDDEN), _src("embed", "vocab", HIDDEN))
    t.output("logits", t.linear(normed, tied, out_dtype="f32"))
    return t.part("head.")


def build_model() -> ModelGraph:
    """Layers full, sliding, with tied embedding; both groups in one pool with equal arrays."""
    arrays = tuple(CacheArray(name, shape_of("kv_heads", HEAD_DIM)) for name in ("k", "v"))
    return ModelGraph(
        embed=_embed(),
        layers=(_layer(0, "full", 0, 0), _layer(1, "sliding", 0, WINDOW)),
        heads={"logits": _head()},
        axes={"heads": Axis(HEADS), "kv_heads": Axis(KV_HEADS), "mlp": Axis(MLP), "vocab": Axis(VOCAB)},
        kv_groups={
            "full": KVGroupSpec("full", 0, arrays, 1, "kv"),
            "sliding": KVGroupSpec("sliding", WINDOW, arrays, 1, "kv"),
        },
    )


class RandomWeights:
    """A WeightSource of reproducible random numbers by tensor name; counts what is read."""

    total_bytes = 0

    def __init__(self, model: ModelGraph) -> None:
        self._sizes = model.axis_sizes()
        self.reads: list[str] = []

    def read(self, weight: Weight) -> np.ndarray:
        if isinstance(weight.source, Cat):
            parts = [replace(weight, source=part, shape=part.shape) for part in weight.source.parts]
            return np.concatenate([self.read(part) for part in parts], weight.source.axis)
        assert isinstance(weight.source, Src)
        self.reads.append(weight.source.name)
        rng = np.random.default_rng(sum(map(ord, weight.source.name)))
        shape = concrete(weight.shape, self._sizes)
        array = rng.standard_normal(shape).astype(np.float32)
        return 1 + 0.1 * array if len(shape) == 1 else array / np.sqrt(np.float32(shape[1])) * 2


def make_plan(model: ModelGraph | None = None, **changes: object) -> ExecutorPlan:
    plan = ExecutorPlan(
        model=model or build_model(),
        weight_dtype="float32",
        act_dtype="float32",
        kv_dtype="float32",
        block_size=BLOCK,
        max_model_len=64,
        max_num_batched_tokens=64,
        max_num_seqs=8,
        max_logits_rows=3,
        return_logits=True,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def greedy(num_rows: int, position: Sequence[int]) -> SamplingBatch:
    return SamplingBatch(
        rows=np.arange(num_rows, dtype=np.int32),
        temperature=np.zeros(num_rows, np.float32),
        seed=np.zeros(num_rows, np.uint64),
        sequence_index=np.zeros(num_rows, np.uint32),
        position=np.array(position, np.int32),
    )


@dataclass
class Line:
    """One sequence of the driver: its tokens, how many are in the cache, its blocks by group."""

    tokens: list[int]
    tables: Mapping[str, list[int]]
    num_computed: int = 0


@dataclass
class Driver:
    """Feeds an executor chunks of sequences and keeps the logits of every token."""

    executor: Executor
    steps: int = 0
    logits: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def batch(self, chunks: Sequence[tuple[Line, int]], **fields: object) -> StepBatch:
        """The next `n` tokens of each sequence, logits of every row, greedy sampling of each last row."""
        lengths = [n for _, n in chunks]
        ends = np.cumsum([0, *lengths]).astype(np.int32)
        width = max(len(table) for seq, _ in chunks for table in seq.tables.values())
        groups = {
            name: GroupBatch(
                np.array([seq.tables[name] + [-1] * (width - len(seq.tables[name])) for seq, _ in chunks], np.int32)
            )
            for name in chunks[0][0].tables
        }
        sampling = replace(
            greedy(len(chunks), [seq.num_computed + n for seq, n in chunks]), rows=(ends[1:] - 1).astype(np.int32)
        )
        values = {
            "step": self.steps,
            "query_start_loc": ends,
            "groups": groups,
            "sampling": sampling,
            "token_ids": np.array(
                [t for seq, n in chunks for t in seq.tokens[seq.num_computed : seq.num_computed + n]], np.int32
            ),
            "num_computed": np.array([seq.num_computed for seq, _ in chunks], np.int32),
            "prev_row": np.full(len(chunks), -1, np.int32),
            "logits_indices": np.arange(ends[-1], dtype=np.int32),
        }
        return StepBatch(**{**values, **fields})  # type: ignore[arg-type]

    def step(self, chunks: Sequence[tuple[Line, int]], **fields: object) -> np.ndarray:
        """Runs one step and advances the sequences; the sampled tokens [S]."""
        batch = self.batch(chunks, **fields)
        result = self.executor.submit(batch).result()
        assert result.logits is not None
        for index, (seq, n) in enumerate(chunks):
            start = batch.query_start_loc[index]
            self.logits.setdefault(id(seq), []).extend(result.logits[start : start + n])
            seq.num_computed += n
        self.steps += 1
        return result.tokens[:, 0]

    def logits_of(self, seq: Line) -> np.ndarray:
        return np.stack(self.logits[id(seq)])


def reference_driver(plan: ExecutorPlan | None = None, num_blocks: int = 20) -> Driver:
    """A driver over a fresh reference executor, loaded and with its cache."""
    plan = plan or make_plan()
    executor = GraphExecutor(ReferenceLibrary(), plan)
    executor.load(RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": num_blocks}))
    return Driver(executor)


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """This module: `tiny.make_plan()`, `tiny.Driver(...)` and so on."""
    return sys.modules[__name__]
