"""What an op declares about itself: operands, attributes, shapes, cost, and how it may be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quire.errors import ModelError
from quire.graph.ir import Attrs, Graph, Node, Value, ValueDtype, Weight
from quire.graph.shapes import Dim, Shape, num_elements


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()
"""Default of an attribute that every use must give."""


@dataclass(frozen=True, slots=True)
class OpArgs:
    """The operands of one node, resolved: absent optional operands are None."""

    inputs: tuple[Value | None, ...]
    weights: tuple[Weight | None, ...]
    attrs: Mapping[str, Any]

    def shape(self, index: int) -> Shape:
        """Shape of input `index`, which must be present."""
        value = self.inputs[index]
        assert value is not None
        return value.shape

    def weight_shape(self, index: int) -> Shape:
        """Shape of weight `index`, which must be present."""
        weight = self.weights[index]
        assert weight is not None
        return weight.shape


Outputs = tuple[tuple[Shape, ValueDtype], ...]


def _no_dims(_: OpArgs) -> tuple[Dim, ...]:
    return ()


def _no_workspace(_: OpArgs) -> Dim:
    return Dim.of(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSpec:
    """What graphs and passes know of one op; `quire.ops` declares it, beside what it computes.

    Attributes:
        name: as in `Node.op`.
        inputs, weights: operand names in order; a trailing "?" marks an optional one.
        outputs: result names; empty when their number depends on attributes (`split`).
        attrs: attribute -> default, or REQUIRED.
        attr_types: annotations for model files, of attributes that are REQUIRED or whose default does not show it.
        shape: result shapes and dtypes; raises ModelError naming the op on a mismatch.
        flops: floating-point operations as a Dim over T, S, L, axes and C (KV tokens a query row sees on average).
        workspace: scratch bytes beyond inputs and outputs.
        contracts: Dims that are summed away; if one holds a cut axis, the result is a partial sum.
        weight_bytes_read: bytes of the weights that a step reads, of their total, under sizes; None = all of them.
        reads_what_it_gives: of input 0, as many elements are read as the result has, not all.
        reads_whole_rows: the last dimension is needed whole, so that no rank can have a part of it.
        weight_center: what random numbers for weight 0 spread around; None = 0.
        in_place: (input, output) index pairs that may share memory.
        view: results alias input 0; no work is done.
        row_independent: row t of the result depends on row t of the inputs only (and on the cache).
        features: operands and attributes that came after the op itself. A graph may use one (give the operand, or a
            value that is not the default) only on a device that declares "op.name" in `Capabilities.op_features`.
            A node that does not use one does not show it either: kernels written before it see what they always saw.
        fused_from: the plain ops a fused op stands for; () for plain ops. Passes fire only where declared.
        tolerance: activation dtype -> allowed |a-b| / (|b| + rms(b)) against the reference.
    """

    name: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    shape: Callable[[OpArgs], Outputs]
    flops: Callable[[OpArgs], Dim]
    attr_types: Mapping[str, str] = field(default_factory=dict)
    workspace: Callable[[OpArgs], Dim] = _no_workspace
    contracts: Callable[[OpArgs], tuple[Dim, ...]] = _no_dims
    weight_bytes_read: Callable[[OpArgs, Mapping[str, int], int], int] | None = None
    weight_center: Callable[[OpArgs], float] | None = None
    reads_what_it_gives: bool = False
    reads_whole_rows: bool = False
    in_place: tuple[tuple[int, int], ...] = ()
    view: bool = False
    row_independent: bool = True
    features: tuple[str, ...] = ()
    fused_from: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2})

    def resolve_attrs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Given attributes over the defaults; raises ModelError on an unknown or missing one."""
        unknown = sorted(set(given) - set(self.attrs))
        missing = sorted(name for name, default in self.attrs.items() if default is REQUIRED and name not in given)
        if unknown or missing:
            raise ModelError(
                f"op {self.name}: "
                + "; ".join([f"unknown attribute {n}" for n in unknown] + [f"missing attribute {n}" for n in missing]),
                because=f"it takes {', '.join(self.attrs) or 'none'}",
            )
        return {**self.attrs, **given}

    def node(self, args: OpArgs, outputs: tuple[int, ...]) -> Node:
        """The node of resolved operands and attributes, without the features that it does not use."""
        inputs = tuple(-1 if value is None else value.id for value in args.inputs)
        weights = tuple("" if weight is None else weight.name for weight in args.weights)
        return Node(
            self.name,
            inputs[: self._num_shown(self.inputs, inputs, -1)],
            weights[: self._num_shown(self.weights, weights, "")],
            outputs,
            self.shown_attrs(args.attrs),
        )

    def shown_attrs(self, resolved: Mapping[str, Any]) -> Attrs:
        """Resolved attributes as a node has them: sorted, a feature only with a value that is not its default."""
        return tuple(
            (name, value)
            for name, value in sorted(resolved.items())
            if name not in self.features or value != self.attrs[name]
        )

    def _num_shown(self, names: tuple[str, ...], operands: tuple[Any, ...], absent: Any) -> int:
        """How many operands a node has: absent features at the end leave no trace."""
        count = len(operands)
        while count and operands[count - 1] == absent and names[count - 1].rstrip("?") in self.features:
            count -= 1
        return count


def args_of_node(spec: OpSpec, graph: Graph, node: Node) -> OpArgs:
    """A node's operands and attributes in full, as shape, cost and workspace rules take them."""
    inputs = (*node.inputs, *(-1,) * (len(spec.inputs) - len(node.inputs)))
    weights = (*node.weights, *("",) * (len(spec.weights) - len(node.weights)))
    return OpArgs(
        tuple(None if i < 0 else graph.values[i] for i in inputs),
        tuple(graph.weights[name] if name else None for name in weights),
        {**spec.attrs, **dict(node.attrs)},
    )


def features_used(spec: OpSpec, node: Node) -> tuple[str, ...]:
    """The features of the op that a node uses, as "op.name"."""
    shown = {name for name, value in node.attrs if value != spec.attrs[name]}
    shown |= {name.rstrip("?") for name, value in zip(spec.inputs, node.inputs, strict=False) if value >= 0}
    shown |= {name.rstrip("?") for name, weight in zip(spec.weights, node.weights, strict=False) if weight}
    return tuple(f"{spec.name}.{name}" for name in spec.features if name in shown)


def shape_error(op: str, message: str) -> ModelError:
    """The error of a shape rule."""
    return ModelError(
        f"op {op}: {message}",
        because="its operands' shapes do not fit each other",
        hint="check the model's config.json against its checkpoint",
    )


def elementwise_flops(per_element: int) -> Callable[[OpArgs], Dim]:
    """A flops rule of `per_element` operations for each element of input 0."""
    return lambda args: num_elements(args.shape(0)) * per_element
