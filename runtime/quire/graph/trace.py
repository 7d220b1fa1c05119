"""The tracer: a model file calls it as if it computed; what comes out is a `Part`.

    t = Tracer()
    x = t.input("hidden", (T, hidden))
    w = t.weight("o_proj", (hidden, heads * head_dim), Src(...))
    t.output("hidden", t.add(x, t.linear(attended, w)))
    part = t.part("model.layers.0.")

Every op of `quire.ops` is a method (`OpMethods`): values are its inputs, weights its weights (None = an absent
optional operand), keywords its attributes. Shapes are checked as the node is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import InternalError
from quire.graph.ir import CacheRef, Graph, Node, Part, Source, Value, ValueDtype, Weight
from quire.graph.op_methods import OpMethods
from quire.graph.op_spec import OpArgs, OpSpec, args_of_node
from quire.graph.op_table import OPS
from quire.graph.shapes import DimLike, shape_of


class Tracer(OpMethods):
    """Records one part. Not reusable after `part()`."""

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._nodes: list[Node] = []
        self._inputs: list[tuple[str, int]] = []
        self._outputs: list[tuple[str, int]] = []
        self._weights: dict[str, Weight] = {}
        self._caches: dict[str, CacheRef] = {}

    def input(self, name: str, shape: tuple[DimLike, ...], dtype: ValueDtype = "act") -> Value:
        """A boundary value that the executor's environment must hold under `name`."""
        value = self._new_value(shape_of(*shape), dtype)
        self._inputs.append((name, value.id))
        return value

    def cache(self, name: str, ref: CacheRef) -> Value:
        """A cache input bound to a layer slot of a KV group; write it and `output` it under the same name."""
        self._caches[name] = ref
        return self.input(name, (), "cache")

    def weight(self, name: str, shape: tuple[DimLike, ...], source: Source, *, keep_f32: bool = False) -> Weight:
        """A parameter with a name local to this part."""
        if name in self._weights:
            raise InternalError(f"weight {name} is declared twice in one part")
        weight = Weight(name, shape_of(*shape), source, keep_f32=keep_f32)
        self._weights[name] = weight
        return weight

    def output(self, name: str, value: Value) -> None:
        """Names a result of the part."""
        self._outputs.append((name, value.id))

    def part(self, prefix: str) -> Part:
        """The finished part. `prefix` is for reports and errors."""
        graph = Graph(tuple(self._values), tuple(self._inputs), tuple(self._outputs), tuple(self._nodes), self._weights)
        return Part(graph, prefix, self._caches)

    def apply(self, op: str, operands: tuple[Value | Weight | None, ...], attrs: Mapping[str, Any]) -> Any:
        """Adds one node of an op by its name; returns its value, or a tuple when the op has several results."""
        results = self._add_node(op, operands, attrs)
        return results[0] if len(results) == 1 else results

    def _add_node(
        self, op: str, operands: tuple[Value | Weight | None, ...], attrs: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        spec = OPS[op]
        inputs, weights = _sort_operands(spec, operands)
        args = OpArgs(inputs, weights, spec.resolve_attrs(attrs))
        outputs = tuple(self._new_value(shape, dtype) for shape, dtype in spec.shape(args))
        self._nodes.append(spec.node(args, tuple(value.id for value in outputs)))
        return outputs

    def _new_value(self, shape: tuple[Any, ...], dtype: ValueDtype) -> Value:
        value = Value(len(self._values), shape, dtype)
        self._values.append(value)
        return value


def _sort_operands(
    spec: OpSpec, operands: tuple[Value | Weight | None, ...]
) -> tuple[tuple[Value | None, ...], tuple[Weight | None, ...]]:
    """Operands in declared order, inputs before weights; trailing optional ones may be left out."""
    names = (*spec.inputs, *spec.weights)
    padded = (*operands, *(None,) * (len(names) - len(operands)))
    if len(padded) != len(names):
        raise InternalError(f"op {spec.name} takes {', '.join(names)}; got {len(operands)} operands")
    kinds = (Value,) * len(spec.inputs) + (Weight,) * len(spec.weights)
    for name, operand, kind in zip(names, padded, kinds, strict=True):
        if operand is None and not name.endswith("?"):
            raise InternalError(f"op {spec.name}: operand {name} is missing")
        if operand is not None and not isinstance(operand, kind):
            raise InternalError(f"op {spec.name}: operand {name} is a {type(operand).__name__}, not a {kind.__name__}")
    return padded[: len(spec.inputs)], padded[len(spec.inputs) :]  # type: ignore[return-value]


def node_args(graph: Graph, node: Node) -> OpArgs:
    """A node's operands and attributes in full, as shape, cost and workspace rules take them."""
    return args_of_node(OPS[node.op], graph, node)
