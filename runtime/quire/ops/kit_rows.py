"""Bodies and draws of ops that work row by row."""

from __future__ import annotations

from typing import Any

from quire.graph.ir import Value
from quire.graph.shapes import shape_of
from quire.ops.activations import ACTIVATIONS
from quire.ops.kit import MOST_FEATURES, FoundCase, KitCase, NodeOfModel, OpBody, OpTrace


def one_operand(case: KitCase) -> OpBody:
    """Of a row; with size `in_head`, of the head's float32 rows."""
    width, in_head = case.size("width"), bool(case.size("in_head"))

    def trace(o: OpTrace) -> Value:
        x = o.t.linear(o.x, o.weight("w", "vocab", width), out_dtype="f32") if in_head else o.x
        y: Value = o.t.apply(case.op, (x,), case.attrs)
        return y

    return OpBody(width, width, trace, in_head=in_head)


def two_operands(case: KitCase) -> OpBody:
    """Both halves of a row, so that operands are strided."""
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        a, b = o.t.split(o.x, sizes=shape_of(width, width))
        y: Value = o.t.apply(case.op, (a, b), case.attrs)
        return y

    return OpBody(2 * width, width, trace)


def norm(case: KitCase) -> OpBody:
    """Over the whole row, or over each head where `heads` are given."""
    heads, dim = case.size("heads"), case.size("head_dim" if case.size("heads") else "width")
    width = heads * dim if heads else dim

    def trace(o: OpTrace) -> Value:
        x = o.heads(o.x, heads, dim) if heads else o.x
        operands = [o.weight("w", dim)] + ([o.weight("b", dim)] if case.size("bias") else [])
        y: Value = o.t.apply(case.op, (x, *operands), case.attrs)
        return o.flat(y, width) if heads else y

    return OpBody(width, width, trace)


def elementwise_of_node(n: NodeOfModel) -> FoundCase:
    return {"width": n.cut(n.shape(0)[-1], MOST_FEATURES // 2)}, n.attrs()


def norm_of_node(n: NodeOfModel) -> FoundCase:
    shape = n.shape(0)
    if len(shape) == 3:
        return {"heads": min(shape[1], MOST_FEATURES // shape[2]), "head_dim": shape[2]}, n.attrs()
    return {"width": n.cut(shape[1])}, n.attrs()


def width_draw(st: Any) -> Any:
    return st.fixed_dictionaries({"width": st.integers(1, 90)})


def rms_draw(st: Any) -> Any:
    """Attributes of rms_norm and add_rms_norm."""
    return st.fixed_dictionaries(
        {
            "eps": st.sampled_from((1e-6, 1e-5)),
            "weight_offset": st.sampled_from((0.0, 1.0)),
            "round_before_weight": st.booleans(),
        }
    )


def activation_draw(st: Any) -> tuple[Any, Any]:
    return width_draw(st), st.fixed_dictionaries({"act": st.sampled_from(ACTIVATIONS)})


def nothing_draw(st: Any) -> Any:
    return st.just({})
