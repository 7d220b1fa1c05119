"""Tiny models of several families, and runners that execute a graph in numpy: ranks in lockstep, or in an arena."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import CacheHandle, ExecutorPlan, KVPlan, ParallelRank
from quire.device.kv_cache import KVCache
from quire.device.step_context import step_context
from quire.graph.ir import Graph, ModelGraph, Node, Part
from quire.graph.memory import ArenaPlan, GraphPlan, Place
from quire.graph.shapes import concrete
from quire.graph.shard import axis_range
from quire.models import build_model_from_config
from quire.reference.device import ReferenceLibrary
from quire.weights.dummy import DummyWeights

BLOCK, NUM_BLOCKS, MAX_LEN = 4, 16, 64
PROMPTS = ((3, 14, 15, 92, 65, 35, 89), (79, 32, 38, 46), (26,))
_DECODER = {
    "vocab_size": 131,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], **_DECODER, "tie_word_embeddings": True},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], **_DECODER},
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        **_DECODER,
        "num_hidden_layers": 4,
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        **_DECODER,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    },
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], **_DECODER},
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 131,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    },
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": 131,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "rotary_pct": 0.5,
    },
}


def build(name: str, **changes: Any) -> ModelGraph:
    """The graph of a tiny model; `changes` are config.json values."""
    return build_model_from_config({**CONFIGS[name], **changes}).graph


class Weights:
    """DummyWeights, spread enough for a fault to show, biases included."""

    def __init__(self, model: ModelGraph, rank: int, world_size: int) -> None:
        self._source = DummyWeights(model, 7, "float32", rank, world_size)

    def read(self, weight: Any) -> np.ndarray:
        array = self._source.read(weight)
        return array * 12 if array.ndim > 1 else array + np.where(array == 0, 0, 0.1).astype(np.float32)


class RankRunner:
    """One rank of a model: kernels, weights, caches, and the values of the part it is running."""

    def __init__(self, model: ModelGraph, rank: int = 0, world_size: int = 1) -> None:
        # The kernels get a world of one: collectives are the lockstep's business.
        self.plan = ExecutorPlan(
            model=model,
            weight_dtype="float32",
            act_dtype="float32",
            kv_dtype="float32",
            block_size=BLOCK,
            max_model_len=MAX_LEN,
            max_num_batched_tokens=64,
            max_num_seqs=8,
            max_logits_rows=8,
            parallel=ParallelRank(),
        )
        self.model, self.rank, self.world_size = model, rank, world_size
        self._weights = Weights(model, rank, world_size)
        pools = {group.pool for group in model.kv_groups.values()}
        self._library = ReferenceLibrary()
        self._cache = KVCache(self._library, self.plan, KVPlan(num_blocks=dict.fromkeys(pools, NUM_BLOCKS)))

    def caches(self, part: Part) -> dict[str, CacheHandle]:
        return {name: self._cache.handle(ref) for name, ref in part.caches.items()}

    def run_node(self, graph: Graph, node: Node, inputs: tuple[Any, ...], context: Any) -> tuple[Any, ...]:
        weights = tuple(self._weights.read(graph.weights[name]) if name else None for name in node.weights)
        is_cut = self.world_size > 1
        if is_cut and node.op == "embedding" and "vocab" in graph.weights[node.weights[0]].shape[0].symbols:
            return self._own_rows(inputs[0], weights[0], node)
        if is_cut and node.op == "experts":
            start, stop = axis_range(self.model.axes["ep"], self.rank, self.world_size)
            mine = (inputs[1] >= start) & (inputs[1] < stop)
            inputs = (
                inputs[0],
                np.where(mine, inputs[1] - start, 0).astype(np.int32),
                np.where(mine, inputs[2], 0).astype(np.float32),
            )
        return self._library.lower(node, graph, self.plan)(context, inputs, weights)

    def _own_rows(self, ids: np.ndarray, table: np.ndarray, node: Node) -> tuple[np.ndarray]:
        start, stop = axis_range(self.model.axes["vocab"], self.rank, self.world_size)
        mine = (ids >= start) & (ids < stop)
        rows = table[np.where(mine, ids - start, 0)] * np.float32(node.attr("scale"))
        return (np.where(mine[:, None], rows, 0).astype(np.float32),)


class Lockstep:
    """All ranks of a model, node by node, with collectives in between; with one rank, a plain run."""

    def __init__(self, ranks: Sequence[RankRunner]) -> None:
        self.ranks = ranks

    def forward(self, batch: StepBatch) -> np.ndarray:
        """Logits [L, vocab]; every rank must have the same."""
        context = step_context(batch, BLOCK, lambda array: array)
        environments: list[dict[str, Any]] = [
            {
                "token_ids": batch.token_ids,
                "positions": context.device["positions"],
                "logits_indices": batch.logits_indices,
            }
            for _ in self.ranks
        ]
        for parts in zip(*(rank.model.parts() for rank in self.ranks), strict=True):
            self._run_part(parts, environments, context)
        logits = [environment["logits"] for environment in environments]
        for other in logits[1:]:
            np.testing.assert_array_equal(other, logits[0])
        return logits[0]

    def _run_part(self, parts: tuple[Part, ...], environments: list[dict[str, Any]], context: Any) -> None:
        values: list[dict[int, Any]] = []
        for rank, part, environment in zip(self.ranks, parts, environments, strict=True):
            known = {**environment, **rank.caches(part)}
            values.append({-1: None} | {value: known[name] for name, value in part.graph.inputs})
        for index, node in enumerate(parts[0].graph.nodes):
            inputs = [tuple(held[v] for v in node.inputs) for held in values]
            if node.op in ("all_reduce", "all_gather") and len(self.ranks) > 1:
                joined = self._join(node, [operands[0] for operands in inputs])
                inputs = [(joined,)] * len(self.ranks)
            for rank, part, held, operands in zip(self.ranks, parts, values, inputs, strict=True):
                results = rank.run_node(part.graph, part.graph.nodes[index], operands, context)
                held.update(zip(node.outputs, results, strict=True))
        for part, held, environment in zip(parts, values, environments, strict=True):
            environment.update({name: held[value] for name, value in part.graph.outputs if name not in part.caches})

    @staticmethod
    def _join(node: Node, pieces: list[np.ndarray]) -> np.ndarray:
        if node.op == "all_reduce":
            return np.sum(pieces, axis=0, dtype=np.float32)
        return np.concatenate(pieces, axis=node.attr("axis"))


class ArenaRunner:
    """Runs a model with every value in its planned place of one NaN-filled buffer."""

    def __init__(self, model: ModelGraph, plan: ArenaPlan) -> None:
        self._rank, self._plan = RankRunner(model), plan
        self._arena = np.zeros(plan.total_bytes, np.uint8)

    def forward(self, batch: StepBatch, *, head_slice: int) -> np.ndarray:
        """Logits, the head run in slices of `head_slice` rows."""
        model, context = self._rank.model, step_context(batch, BLOCK, lambda array: array)
        self._arena.view(np.float32)[...] = np.nan
        fed = {"token_ids": batch.token_ids, "positions": context.device["positions"]}
        sizes = {**model.axis_sizes(), "T": batch.num_tokens, "S": batch.num_seqs}
        graphs = dict(zip((id(part) for part in model.parts()), self._plan.graphs, strict=True))
        for part in (model.embed, *model.layers):
            self._run_part(part, graphs[id(part)], fed, sizes, context)
        rows, head = batch.logits_indices, model.heads["logits"]
        pieces = []
        for start in range(0, len(rows), head_slice):
            some = rows[start : start + head_slice]
            self._run_part(head, graphs[id(head)], {"logits_indices": some}, {**sizes, "L": len(some)}, context)
            value = dict(head.graph.outputs)["logits"]
            place = graphs[id(head)].places[value]
            pieces.append(self._array(head.graph, value, place, {**sizes, "L": len(some)}).copy())
        return np.concatenate(pieces)

    def _run_part(self, part: Part, plan: GraphPlan, fed: dict[str, Any], sizes: dict[str, int], context: Any) -> None:
        graph = part.graph
        caches = {dict(graph.inputs)[name]: handle for name, handle in self._rank.caches(part).items()}
        arrays = {v: self._array(graph, v, place, sizes) for v, place in plan.places.items()}
        for name, value in graph.inputs:
            if name in fed:
                arrays[value][...] = fed[name]
        for node in graph.nodes:
            inputs = tuple(None if v < 0 else caches[v] if v in caches else arrays[v] for v in node.inputs)
            results = self._rank.run_node(graph, node, inputs, context)
            for value, result in zip(node.outputs, results, strict=True):
                if value not in arrays:
                    caches[value] = result
                elif not plan.places[value].is_view:
                    arrays[value][...] = result
        for value, name in plan.copies:
            offset, _ = self._plan.boundary[name]
            home = Place(offset, value, 0, int(np.prod(arrays[value].shape[1:])), False)
            self._array(graph, value, home, sizes)[...] = arrays[value]

    def _array(self, graph: Graph, value: int, place: Place, sizes: dict[str, int]) -> np.ndarray:
        shape = concrete(graph.values[value].shape, sizes)
        dtype = np.dtype(np.int32 if graph.values[value].dtype == "i32" else np.float32)
        inner = [int(np.prod(shape[i + 1 :])) * 4 for i in range(1, len(shape))]
        return np.ndarray(shape, dtype, self._arena, place.offset_bytes, (place.row_stride * 4, *inner))


def batches(model: ModelGraph) -> list[StepBatch]:
    """Three prompts in two steps of uneven chunks; logits of every row."""
    first = [4, 4, 0]
    steps = []
    for step, done in enumerate(([0, 0, 0], first)):
        chunks = [(s, n) for s, n in enumerate([first, [3, 0, 1]][step]) if n]
        ends = np.cumsum([0, *(n for _, n in chunks)]).astype(np.int32)
        # Pools are shared by groups, so each group of a sequence has blocks of its own.
        tables = {
            name: np.array([[s * 4 + index * 2, s * 4 + index * 2 + 1] for s, _ in chunks], np.int32)
            for index, name in enumerate(model.kv_groups)
        }
        steps.append(
            StepBatch(
                step=step,
                token_ids=np.array([t for s, n in chunks for t in PROMPTS[s][done[s] : done[s] + n]], np.int32),
                query_start_loc=ends,
                num_computed=np.array([done[s] for s, _ in chunks], np.int32),
                prev_row=np.full(len(chunks), -1, np.int32),
                groups={n: GroupBatch(t) for n, t in tables.items()},
                logits_indices=np.arange(ends[-1], dtype=np.int32),
            )
        )
    return steps


def _logits(model: ModelGraph, world_size: int = 1) -> np.ndarray:
    lockstep = Lockstep([RankRunner(model, rank, world_size) for rank in range(world_size)])
    return np.concatenate([lockstep.forward(batch) for batch in batches(model)])


def _arena_logits(model: ModelGraph, plan: ArenaPlan, head_slice: int) -> np.ndarray:
    runner = ArenaRunner(model, plan)
    return np.concatenate([runner.forward(batch, head_slice=head_slice) for batch in batches(model)])


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelGraph]:
    """tiny("qwen3", **config changes) -> ModelGraph."""
    return build


@pytest.fixture(scope="session")
def logits() -> Callable[..., np.ndarray]:
    """logits(model, world_size=1): logits of every token of three prompts, in numpy."""
    return _logits


@pytest.fixture(scope="session")
def arena_logits() -> Callable[..., np.ndarray]:
    """arena_logits(model, plan, head_slice): the same, every value in its planned place."""
    return _arena_logits
