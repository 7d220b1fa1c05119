"""How the conformance kit looks at an op: its cases, and the one-op model in which they run.

The kit builds a model whose embedding rows are the op's operands, with the op in its layer, or in the head where it
has a float32 form. A body says which operands the op gets there and which of its results is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from quire.graph.ir import Graph, ModelGraph, Node, Src, Value, Weight
from quire.graph.op_table import OPS
from quire.graph.shapes import Dim, DimLike, T, concrete, shape_of
from quire.graph.trace import Tracer, node_args

Row = tuple[str, Mapping[str, int], Mapping[str, Any], Mapping[str, Any]]
"""A fixed case: variant, sizes, attributes, further fields of the kit's OpCase (lines, spread, zero_weights)."""

Lines = tuple[tuple[int, int], ...]
"""(tokens in the cache before, tokens of the step) of each sequence."""

MOST_FEATURES, MOST_EXPERT_FEATURES = 4096, 512
_REMAINDER = 64


class KitCase(Protocol):
    """What a body reads of a case."""

    @property
    def op(self) -> str: ...

    @property
    def attrs(self) -> Mapping[str, Any]: ...

    def size(self, name: str, default: int = 0) -> int: ...


class OpTrace:
    """What a body traces with: the layer's operands beside the tracer.

    Attributes:
        t: the tracer. x: [T, in_width]. positions: i32 [T]. cache: the layer's cache value.
        written: the cache after the op; a body that uses the cache sets it.
    """

    def __init__(self, t: Tracer, x: Value, positions: Value | None, cache: Value | None) -> None:
        self.t, self.x, self._positions, self._cache = t, x, positions, cache
        self.written: Value | None = None

    @property
    def positions(self) -> Value:
        assert self._positions is not None, "only layers have positions"
        return self._positions

    @property
    def cache(self) -> Value:
        assert self._cache is not None, "only layers have a cache"
        return self._cache

    def weight(self, name: str, *shape: DimLike) -> Weight:
        """A random weight of the case."""
        return self.t.weight(name, shape, Src(f"op.{name}", shape_of(*shape)))

    def heads(self, x: Value, num_heads: DimLike, head_dim: int) -> Value:
        """[T, heads * d] as [T, heads, d]."""
        return self.t.reshape(x, shape=shape_of(T, num_heads, head_dim))

    def flat(self, x: Value, width: DimLike) -> Value:
        """[T, heads, d] as [T, heads * d]."""
        return self.t.reshape(x, shape=shape_of(T, width))


@dataclass(frozen=True, slots=True)
class OpBody:
    """A traced op: operand width, result width, how it is traced; where it stands.

    Attributes:
        trace: gives [T, out_width] (in the head float32 [L, out_width]).
        in_head: the op stands behind the identity of the head.
        uses_cache, uses_positions: what the layer needs.
        embed_scale: `scale` of the embedding that gives the operands.
    """

    in_width: int
    out_width: int
    trace: Callable[[OpTrace], Value]
    in_head: bool = False
    uses_cache: bool = False
    uses_positions: bool = False
    embed_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class NodeOfModel:
    """A node of a real model, from which a case in its shapes is made; large sizes are cut.

    A cut size keeps its remainder by 64, which is what the tails of kernels see.
    """

    node: Node
    graph: Graph
    model: ModelGraph

    def shape(self, index: int) -> tuple[int, ...]:
        """Input `index` in ints, with one token."""
        return concrete(
            node_args(self.graph, self.node).shape(index), {"T": 1, "L": 1, "S": 1, **self.model.axis_sizes()}
        )

    def weight_shape(self, index: int) -> tuple[int, ...]:
        return concrete(node_args(self.graph, self.node).weight_shape(index), self.model.axis_sizes())

    def has_weight(self, index: int) -> bool:
        return node_args(self.graph, self.node).weights[index] is not None

    def attrs(self) -> dict[str, Any]:
        """Attributes that are not the default."""
        return self.attrs_of(self.node)

    @staticmethod
    def attrs_of(node: Node) -> dict[str, Any]:
        """The attributes of another node of the graph that are not the default."""
        defaults = OPS[node.op].attrs
        return {name: value for name, value in node.attrs if value != defaults[name] and not isinstance(value, Dim)}

    @staticmethod
    def cut(size: int, most: int = MOST_FEATURES) -> int:
        return size if size <= most else most + size % _REMAINDER


FoundCase = tuple[dict[str, int], dict[str, Any]]
"""(sizes, attributes) of a case that stands for a node of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpKit:
    """The kit's view of an op.

    Attributes:
        body: a case's place in the one-op model.
        cases: the fixed cases: shapes and attributes that implementations get wrong.
        draw: `hypothesis.strategies` -> (strategy of sizes, strategy of attributes) of drawn cases.
        of_node: the case in the shapes of a model's node; None = no cases are made of models.
        takes_matrices: its weights are matrices, which are tried in every weight dtype.
        cache: what it does with a KV cache, which is tried in every KV dtype: "moves" what it is given, or "computes"
            what it then stores, so that a value may be rounded to either neighbour.
        shuffles_rows: the head's rows are asked for out of order and twice.
    """

    body: Callable[[KitCase], OpBody]
    cases: tuple[Row, ...]
    draw: Callable[[Any], tuple[Any, Any]]
    of_node: Callable[[NodeOfModel], FoundCase] | None = None
    takes_matrices: bool = False
    cache: Literal["", "moves", "computes"] = ""
    shuffles_rows: bool = False
