"""From a graph in parts to a flat native plan: every value placed in one arena, every node a native call.

Places come from `quire.graph.memory` at the largest step; a step runs with its own T and L at the same offsets.
Views cost nothing, layers share their places, the head runs in slices of logits rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device.contract import ExecutorPlan
from quire.errors import BackendError
from quire.graph.ir import CacheRef, Graph, Node, Part, Value
from quire.graph.memory import GraphPlan, Place, plan_arena
from quire.graph.ops import OPS
from quire.graph.rope import RopeSpec, rope_rows, rope_table
from quire.graph.shapes import concrete
from quire_cpu import _native
from quire_cpu.fused_linears import added_operand, gates_its_halves
from quire_cpu.native_ops import LOWERINGS, OpSite, gated_linear, linear_add
from quire_cpu.options import CpuOptions
from quire_cpu.weights import NativeWeights

LOGITS = "logits"

_EXTERNAL = {
    "token_ids": _native.Space.token_ids,
    "positions": _native.Space.positions,
    "logits_indices": _native.Space.logits_indices,
}
"""Boundary names whose arrays come with the step."""

_ROW_SYMBOLS = {"T": _native.RowSymbol.T, "L": _native.RowSymbol.L}


class FlatPlan:
    """A native plan and what the executor must know of it.

    Attributes:
        native: the plan, prepared; weights not yet loaded, cache not yet allocated.
        weights: loads into it. group_index: KV group -> native index.
        pools: native pool -> pool name of the KV plan.
        has_logits: the model has a logits head.
    """

    def __init__(self, plan: ExecutorPlan, options: CpuOptions) -> None:
        self._plan = plan
        self.head_rows = min(plan.max_logits_rows, plan.max_num_batched_tokens)
        self._sizes = {
            **plan.model.axis_sizes(),
            "T": plan.max_num_batched_tokens,
            "S": plan.max_num_seqs,
            "L": self.head_rows,
        }
        self.native = _native.Plan(
            kernels=options.kernels_for(plan.act_dtype),
            threads=options.threads,
            poison=options.poison,
            kv_dtype=plan.kv_dtype,
            block_size=plan.block_size,
            max_tokens=plan.max_num_batched_tokens,
            max_seqs=plan.max_num_seqs,
            max_logits=self.head_rows,
            max_len=plan.max_model_len,
            vocab_size=self._vocab_size(),
        )
        self.pools: list[str] = []
        self.group_index = self._add_groups()
        self.weights = NativeWeights(plan, self.native)
        self._rope_tables: dict[RopeSpec, int] = {}
        self._rope_rows = rope_rows(1, plan.max_model_len)
        self._constants: dict[bytes, int] = {}
        self.has_logits = LOGITS in plan.model.heads
        self._add_parts()

    def identity(self) -> str:
        """What decides the bytes held, but for the checkpoint's contents: the kernels, all weights, all constants."""
        constants = " ".join(constant.hex() for constant in self._constants)
        return f"{self.native.kernels}\n{self.weights.identity()}\n{constants}"

    def _vocab_size(self) -> int:
        """Rows of the embedding table: token ids are below it."""
        graph = self._plan.model.embed.graph
        tables = [graph.weights[node.weights[0]] for node in graph.nodes if node.op == "embedding"]
        return concrete(tables[0].shape, self._sizes)[0] if tables else 0

    def _add_groups(self) -> dict[str, int]:
        """KV groups of one pool with equal arrays share memory; others get memory of their own in that pool."""
        index: dict[str, int] = {}
        stores: dict[Any, int] = {}
        for name, group in self._plan.model.kv_groups.items():
            shapes = {array.name: concrete(array.shape, self._sizes) for array in group.arrays}
            if set(shapes) != {"k", "v"} or any(array.dtype != "kv" for array in group.arrays):
                raise BackendError(
                    f"device cpu cannot hold KV group {name}", because="it caches k and v per token only"
                )
            key = (group.pool, shapes["k"], shapes["v"])
            if key not in stores:
                stores[key] = len(stores)
                self.pools.append(group.pool)
            (kv_heads, head_dim), (_, v_head_dim) = shapes["k"], shapes["v"]
            index[name] = self.native.add_group(stores[key], group.layers, kv_heads, head_dim, v_head_dim)
        return index

    def _add_parts(self) -> None:
        model = self._plan.model
        heads = {name: head for name, head in model.heads.items() if name == LOGITS}
        parts = (model.embed, *model.layers, *heads.values())
        arena = plan_arena(
            [part.graph for part in parts], self._sizes, external=frozenset(_EXTERNAL), workspace=lambda graph, node: 0
        )  # kernels' scratch is the native plan's own
        for part, places in zip(parts, arena.graphs, strict=True):
            self._add_part(part, places, arena.boundary, is_head=part in heads.values())
        self.native.prepare(arena.total_bytes)

    def _add_part(self, part: Part, plan: GraphPlan, boundary: Mapping[str, tuple[int, int]], *, is_head: bool) -> None:
        graph = part.graph
        shapes = {value.id: concrete(value.shape, self._sizes) for value in graph.values}
        operands = {value: self._operand(graph, value, place) for value, place in plan.places.items()}
        caches: dict[int, CacheRef] = {value: part.caches[name] for name, value in graph.inputs if name in part.caches}

        def emit(op: str, **fields: Any) -> None:
            try:
                self.native.add_op(op, is_head, **fields)
            except (ValueError, IndexError) as error:
                raise BackendError(f"device cpu cannot run op {op} of {part.prefix}", because=str(error)) from error

        def site(node: Node) -> OpSite:
            return OpSite(
                node,
                graph,
                shapes,
                operands,
                caches,
                self.group_index,
                self.weights,
                self._rope_table,
                self._constant,
                self._plan.model.axes,
                emit,
            )

        index = 0
        while index < len(graph.nodes):
            node = graph.nodes[index]
            if gates_its_halves(graph, index, shapes, plan.places, self.native.panel_columns):
                gated_linear(site(node), site(graph.nodes[index + 2]))
                index += 3
                continue
            if (residual := added_operand(graph, index, shapes, plan.places)) is not None:
                linear_add(site(node), site(graph.nodes[index + 1]), residual)
                index += 2
                continue
            if not (OPS[node.op].view and all(plan.places[value].is_view for value in node.outputs)):
                LOWERINGS[node.op](site(node))
            index += 1
        copied = dict(plan.copies)
        for value, name in copied.items():
            source = operands[value]
            target = _native.Operand(
                _native.Space.arena, boundary[name][0], source.width, source.rows, source.rows_per_symbol, source.width
            )
            emit("copy_view", x=source, y=target, sizes=[source.width], strides=[1])
            operands[value] = target
        if is_head:
            self.native.set_logits(operands[dict(graph.outputs)[LOGITS]])

    def _operand(self, graph: Graph, value_id: int, place: Place) -> Any:
        value = graph.values[value_id]
        rows, rows_per_symbol = _rows(value, self._sizes)
        width = 1
        for size in concrete(value.shape[1:], self._sizes):
            width *= size
        space = _EXTERNAL[place.external] if place.external else _native.Space.arena
        return _native.Operand(space, place.offset_bytes, place.row_stride, rows, rows_per_symbol, width)

    def _rope_table(self, spec: RopeSpec) -> int:
        if spec not in self._rope_tables:
            self._rope_tables[spec] = self.native.add_rotary(*rope_table(spec, self._rope_rows))
        return self._rope_tables[spec]

    def cover_positions(self, num_positions: int) -> None:
        """Rows of the rotary tables for all positions below `num_positions`; steps that run do not notice."""
        if num_positions <= self._rope_rows:
            return
        num_rows = rope_rows(num_positions, self._plan.max_model_len)
        for spec, table in self._rope_tables.items():
            self.native.extend_rotary(table, *rope_table(spec, num_rows - self._rope_rows, self._rope_rows))
        self._rope_rows = num_rows

    def _constant(self, vector: np.ndarray | None) -> int | None:
        if vector is None:
            return None
        key = vector.tobytes()
        if key not in self._constants:
            self._constants[key] = self.native.add_vector(len(vector))
            self.native.fill_vector(self._constants[key], vector, "float32")
        return self._constants[key]


def _rows(value: Value, sizes: Mapping[str, int]) -> tuple[Any, int]:
    """The step symbol that dimension 0 counts, and how many rows there are for each."""
    first = value.shape[0].substitute({name: size for name, size in sizes.items() if name not in _ROW_SYMBOLS})
    if len(first.terms) != 1 or len(first.terms[0][0]) != 1 or first.terms[0][0][0] not in _ROW_SYMBOLS:
        raise BackendError(
            f"device cpu cannot place an array of {value.shape[0]} rows",
            because="rows are a multiple of tokens (T) or logits rows (L)",
        )
    (symbol,), count = first.terms[0]
    return _ROW_SYMBOLS[symbol], count
