"""How each op of the neutral set becomes native calls: one function an op, fields by name.

The native side checks every field's name, type and size; here only shapes are read and operands are placed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.errors import BackendError
from quire.graph.alibi import slopes_of_node
from quire.graph.ir import Axis, CacheRef, Graph, Node, Weight
from quire.graph.rope import RopeSpec
from quire_cpu import _native
from quire_cpu.weights import NativeWeights

Operand = _native.Operand


@dataclass(frozen=True, slots=True)
class OpSite:
    """A node where it is lowered: its operands placed, its weights declared.

    Attributes:
        shapes: of every value, in ints at the plan's largest step.
        operands: value id -> native operand, rows as in dimension 0; caches are absent.
        caches: value id -> the cache it stands for.
        rope_table: spec -> native handle. constant: a float32 vector, or None -> native handle, or None.
        emit: emit(native op, **fields) appends a call.
    """

    node: Node
    graph: Graph
    shapes: Mapping[int, tuple[int, ...]]
    operands: Mapping[int, Any]
    caches: dict[int, CacheRef]
    group_index: Mapping[str, int]
    weights: NativeWeights
    rope_table: Callable[[RopeSpec], int]
    constant: Callable[[np.ndarray | None], int | None]
    axes: Mapping[str, Axis]
    emit: Callable[..., None]

    def input(self, index: int) -> Any:
        return self.operands[self.node.inputs[index]]

    def output(self, index: int = 0) -> Any:
        return self.operands[self.node.outputs[index]]

    def input_shape(self, index: int) -> tuple[int, ...]:
        return self.shapes[self.node.inputs[index]]

    def weight(self, index: int) -> Weight | None:
        """The weight operand `index`, None where it is absent; a node does not show absent ones at its end."""
        name = self.node.weights[index] if index < len(self.node.weights) else ""
        return self.graph.weights[name] if name else None

    def vector(self, index: int) -> int | None:
        weight = self.weight(index)
        return None if weight is None else self.weights.vector(weight)

    def slopes(self) -> np.ndarray | None:
        """ALiBi slopes of an attention's heads; the device has one rank."""
        return slopes_of_node(self.node, self.graph, self.axes)

    def cache(self, index: int) -> dict[str, int]:
        """group and slot of the cache operand `index`."""
        ref = self.caches[self.node.inputs[index]]
        return {"group": self.group_index[ref.group], "slot": ref.slot}

    def copy(self, source: Any, target: Any) -> None:
        """Moves rows of equal width, unless both are one place."""
        here = (source.space, source.offset_bytes, source.row_stride)
        if here != (target.space, target.offset_bytes, target.row_stride):
            self.emit("copy_view", x=source, y=target, sizes=[target.width], strides=[1])

    def flat_rows(self, operand: Any, value: int) -> Any:
        """[T, ..., F] as rows of F; the inner dimensions must follow each other without gaps."""
        shape = self.shapes[value]
        if len(shape) <= 2:
            return operand
        width = shape[-1]
        if operand.row_stride != operand.width:
            raise BackendError(
                f"device cpu: op {self.node.op} on a strided array of shape {shape}",
                because="its rows of the last dimension are not evenly spaced",
            )
        return _native.Operand(
            operand.space,
            operand.offset_bytes,
            width,
            operand.rows,
            operand.rows_per_symbol * (operand.width // width),
            width,
        )


def _embedding(site: OpSite) -> None:
    weight = site.weight(0)
    assert weight is not None
    table, linear = site.weights.rows(weight)
    site.emit(
        "embedding",
        ids=site.input(0),
        y=site.output(),
        table=table,
        linear=linear,
        scale=float(site.node.attr("scale")),
    )


def _linear(site: OpSite) -> None:
    weight = site.weight(0)
    assert weight is not None
    site.emit(
        "linear",
        x=site.flat_rows(site.input(0), site.node.inputs[0]),
        y=site.flat_rows(site.output(), site.node.outputs[0]),
        weight=site.weights.matrix(weight),
        bias=site.vector(1),
    )


def gated_linear(linear: OpSite, gated: OpSite) -> None:
    """A linear whose result, split in halves, nobody reads but the gated activation."""
    weight = linear.weight(0)
    assert weight is not None
    linear.emit(
        "gated_linear",
        x=linear.input(0),
        y=gated.output(),
        weight=linear.weights.matrix(weight),
        bias=linear.vector(1),
        act=gated.node.attr("act"),
    )


def linear_add(linear: OpSite, normed: OpSite, residual: int) -> None:
    """A linear whose result nobody reads but an add_rms_norm, with the operand at `residual` as the other addend."""
    weight = linear.weight(0)
    assert weight is not None
    linear.emit(
        "linear_add",
        x=linear.input(0),
        y=normed.output(0),
        residual=normed.input(residual),
        weight=linear.weights.matrix(weight),
        bias=linear.vector(1),
    )
    normed.emit(
        "rms_norm",
        x=normed.output(0),
        y=normed.output(1),
        weight=normed.vector(0),
        **_norm_attrs(normed.node),
        groups=1,
    )


def _rms_norm(site: OpSite) -> None:
    # round_before_weight only matters where activations are narrower than float32.
    site.emit(
        "rms_norm",
        x=site.input(0),
        y=site.output(),
        weight=site.vector(0),
        **_norm_attrs(site.node),
        groups=site.input(0).width // site.input_shape(0)[-1],
    )


def _add_rms_norm(site: OpSite) -> None:
    site.emit(
        "add_rms_norm",
        a=site.input(0),
        b=site.input(1),
        sum=site.output(0),
        y=site.output(1),
        weight=site.vector(0),
        **_norm_attrs(site.node),
    )


def _norm_attrs(node: Node) -> dict[str, float]:
    return {"eps": float(node.attr("eps")), "weight_offset": float(node.attr("weight_offset"))}


def _layer_norm(site: OpSite) -> None:
    site.emit(
        "layer_norm",
        x=site.flat_rows(site.input(0), site.node.inputs[0]),
        y=site.flat_rows(site.output(), site.node.outputs[0]),
        weight=site.vector(0),
        bias=site.vector(1),
        eps=float(site.node.attr("eps")),
    )


def _add(site: OpSite) -> None:
    site.emit("add", a=site.input(0), b=site.input(1), y=site.output())


def _scale(site: OpSite) -> None:
    site.emit("scale", x=site.input(0), y=site.output(), value=float(site.node.attr("factor")))


def _softcap(site: OpSite) -> None:
    site.emit("softcap", x=site.input(0), y=site.output(), value=float(site.node.attr("cap")))


def _activation(site: OpSite) -> None:
    site.emit("activation", x=site.input(0), y=site.output(), act=site.node.attr("act"))


def _gated_activation(site: OpSite) -> None:
    site.emit("gated_activation", gate=site.input(0), up=site.input(1), y=site.output(), act=site.node.attr("act"))


def _take_rows(site: OpSite) -> None:
    site.emit("take_rows", x=site.input(0), rows=site.input(1), y=site.output())


def _rotary_fields(site: OpSite, positions: int) -> dict[str, Any]:
    spec: RopeSpec = site.node.attr("table")
    return {"positions": site.input(positions), "table": site.rope_table(spec), "style": site.node.attr("style")}


def _rotary(site: OpSite, positions: int = 1) -> None:
    site.emit(
        "rotary", x=site.input(0), y=site.output(0), heads=site.input_shape(0)[1], **_rotary_fields(site, positions)
    )


def _cache_write(site: OpSite) -> None:
    site.emit("cache_write", k=site.input(1), v=site.input(2), **site.cache(0))
    site.caches[site.node.outputs[0]] = site.caches[site.node.inputs[0]]


def _rotary_cache_write(site: OpSite) -> None:
    _rotary(site, positions=3)  # a row op of its own: queries need not wait until the cache takes many tokens at once
    site.emit("rotary_cache_write", k=site.input(1), v=site.input(2), **_rotary_fields(site, 3), **site.cache(4))
    site.caches[site.node.outputs[1]] = site.caches[site.node.inputs[4]]


def _paged_attention(site: OpSite) -> None:
    node = site.node
    site.emit(
        "paged_attention",
        q=site.input(0),
        y=site.output(),
        heads=site.input_shape(0)[1],
        **site.cache(1),
        window=int(node.attr("window")),
        scale=float(node.attr("scale")),
        softcap=float(node.attr("softcap")),
        causal=bool(node.attr("causal")),
        sinks=site.vector(0),
        alibi_slopes=site.constant(site.slopes()),
    )


def _route_experts(site: OpSite) -> None:
    node = site.node
    site.emit(
        "route_experts",
        logits=site.input(0),
        ids=site.output(0),
        weights=site.output(1),
        k=int(node.attr("k")),
        score=node.attr("score"),
        normalize=bool(node.attr("normalize")),
        scale=float(node.attr("scale")),
    )


def _experts(site: OpSite) -> None:
    w13, w2 = site.weight(0), site.weight(1)
    assert w13 is not None
    assert w2 is not None
    site.emit(
        "experts",
        x=site.input(0),
        ids=site.input(1),
        weights=site.input(2),
        y=site.output(),
        w13=list(site.weights.experts(w13)),
        w2=list(site.weights.experts(w2)),
        act=site.node.attr("act"),
    )


def _all_reduce(site: OpSite) -> None:
    bias = site.vector(0)
    if bias is None:
        site.copy(site.input(0), site.output())
    else:
        site.emit("add_vector", x=site.input(0), vector=bias, y=site.output())


def _all_gather(site: OpSite) -> None:
    shape = site.input_shape(0)
    if site.node.attr("axis") % len(shape) != len(shape) - 1 or len(shape) != 2:
        raise BackendError(
            f"device cpu: all_gather along axis {site.node.attr('axis')} of {shape}",
            because="it gathers rows of two-dimensional arrays only",
        )
    site.emit("copy_view", x=site.input(0), y=site.output(), sizes=[site.output().width], strides=[1])


def _moved_view(site: OpSite) -> None:
    """A view op some of whose results cannot alias their base: those are copied."""
    shape, node = site.input_shape(0), site.node
    source = site.input(0)
    if node.op == "reshape":
        target = site.output()
        rows = _native.Operand(
            target.space, target.offset_bytes, source.width, source.rows, source.rows_per_symbol, source.width
        )
        site.emit("copy_view", x=source, y=rows, sizes=[source.width], strides=[1])
        return
    axis = node.attr("axis") % len(shape)
    if axis == 0:
        raise BackendError(f"device cpu: split of {shape} along rows", because="the number of rows changes every step")
    outer, inner = _product(shape[1:axis]), _product(shape[axis + 1 :])
    before = 0
    for value in node.outputs:
        size = site.shapes[value][axis]
        part = _native.Operand(
            source.space,
            source.offset_bytes + 4 * before * inner,
            source.row_stride,
            source.rows,
            source.rows_per_symbol,
            source.width,
        )
        site.emit(
            "copy_view", x=part, y=site.operands[value], sizes=[outer, size * inner], strides=[shape[axis] * inner, 1]
        )
        before += size


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


LOWERINGS: Mapping[str, Callable[[OpSite], None]] = {
    "embedding": _embedding,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "add": _add,
    "scale": _scale,
    "softcap": _softcap,
    "activation": _activation,
    "gated_activation": _gated_activation,
    "split": _moved_view,
    "reshape": _moved_view,
    "take_rows": _take_rows,
    "rotary": _rotary,
    "cache_write": _cache_write,
    "paged_attention": _paged_attention,
    "route_experts": _route_experts,
    "experts": _experts,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "add_rms_norm": _add_rms_norm,
    "rotary_cache_write": _rotary_cache_write,
}
"""Op -> what it emits. For `split` and `reshape`: where the memory plan could not make them views."""
