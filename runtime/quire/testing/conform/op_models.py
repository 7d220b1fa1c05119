"""How each op stands in its one-op model: which operands it gets, and which of its results is looked at.

Sizes: width = features, heads, kv_heads, head_dim; `result` picks one of several results.
"""

from __future__ import annotations

from collections.abc import Callable

from quire.graph.ir import Value
from quire.graph.shapes import Dim, shape_of
from quire.testing.conform.op_case import OpBody, OpCase, OpTrace


def _embedding(case: OpCase) -> OpBody:
    width = case.size("width")
    scale = float(case.attrs.get("scale", 1.0))
    return OpBody(width, width, lambda o: o.t.scale(o.x, factor=1.0), embed_scale=scale)


def _linear(case: OpCase) -> OpBody:
    width, out, bias, in_head = case.size("width"), case.size("out"), case.size("bias"), bool(case.size("in_head"))

    def trace(o: OpTrace) -> Value:
        rows = "vocab" if in_head else out
        return o.t.linear(
            o.x,
            o.weight("w", rows, width),
            o.weight("b", rows) if bias else None,
            out_dtype="f32" if in_head else "act",
        )

    return OpBody(width, out, trace, in_head=in_head)


def _norm(case: OpCase) -> OpBody:
    """Over the whole row, or over each head where `heads` are given."""
    heads, dim = case.size("heads"), case.size("head_dim" if case.size("heads") else "width")
    width = heads * dim if heads else dim

    def trace(o: OpTrace) -> Value:
        x = o.heads(o.x, heads, dim) if heads else o.x
        operands = [o.weight("w", dim)] + ([o.weight("b", dim)] if case.size("bias") else [])
        y: Value = o.t.apply(case.op, (x, *operands), case.attrs)
        return o.flat(y, width) if heads else y

    return OpBody(width, width, trace)


def _two_operands(case: OpCase) -> OpBody:
    """add, gated_activation: both halves of a row, so that operands are strided."""
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        a, b = o.t.split(o.x, sizes=shape_of(width, width))
        return o.t.apply(case.op, (a, b), case.attrs)

    return OpBody(2 * width, width, trace)


def _one_operand(case: OpCase) -> OpBody:
    """activation, scale, softcap; in the head on float32."""
    width, in_head = case.size("width"), bool(case.size("in_head"))

    def trace(o: OpTrace) -> Value:
        x = o.t.linear(o.x, o.weight("w", "vocab", width), out_dtype="f32") if in_head else o.x
        return o.t.apply(case.op, (x,), case.attrs)

    return OpBody(width, width, trace, in_head=in_head)


def _split(case: OpCase) -> OpBody:
    first, second, third = (case.size(name) for name in ("a", "b", "c"))
    width = (first, second, third)[case.size("result")]

    def trace(o: OpTrace) -> Value:
        return o.t.split(o.x, sizes=shape_of(first, second, third))[case.size("result")]

    return OpBody(first + second + third, width, trace)


def _reshape(case: OpCase) -> OpBody:
    """Rows of a strided half as [T, heads, d] and back."""
    heads, dim = case.size("heads"), case.size("head_dim")

    def trace(o: OpTrace) -> Value:
        _, x = o.t.split(o.x, sizes=shape_of(heads * dim, heads * dim))
        return o.flat(o.t.scale(o.heads(x, heads, dim), factor=1.0), heads * dim)

    return OpBody(2 * heads * dim, heads * dim, trace)


def _take_rows(case: OpCase) -> OpBody:
    """The head's own; the driver asks for rows out of order and twice."""
    width = case.size("width")
    return OpBody(width, width, lambda o: o.t.scale(o.x, factor=1.0))


def _rotary(case: OpCase) -> OpBody:
    heads, dim = case.size("heads"), case.size("head_dim")

    def trace(o: OpTrace) -> Value:
        x = o.t.rotary(o.heads(o.x, heads, dim), o.positions, **case.attrs)
        return o.flat(x, heads * dim)

    return OpBody(heads * dim, heads * dim, trace, uses_positions=True)


def _paged_attention(case: OpCase) -> OpBody:
    """Queries, keys and values are thirds of a row; also the case of cache_write and rotary_cache_write."""
    heads, kv_heads, dim = case.size("heads"), case.size("kv_heads"), case.size("head_dim")
    v_dim = case.attrs.get("v_head_dim") or dim
    rotary = {name: case.attrs[name] for name in ("table", "style") if name in case.attrs}
    attention = {name: value for name, value in case.attrs.items() if name not in rotary}

    def trace(o: OpTrace) -> Value:
        q, k, v = o.t.split(o.x, sizes=shape_of(heads * dim, kv_heads * dim, kv_heads * v_dim))
        q, k, v = o.heads(q, heads, dim), o.heads(k, kv_heads, dim), o.heads(v, kv_heads, v_dim)
        if case.op == "rotary_cache_write":
            q, o.written = o.t.rotary_cache_write(q, k, v, o.positions, o.cache, **rotary)
        else:
            o.written = o.t.cache_write(o.cache, k, v)
        sinks = o.weight("sinks", heads) if case.size("sinks") else None
        out = o.t.paged_attention(q, o.written, sinks, **{"scale": dim**-0.5, **attention})
        return o.flat(out, heads * v_dim)

    return OpBody(
        (heads + kv_heads) * dim + kv_heads * v_dim,
        heads * v_dim,
        trace,
        uses_cache=True,
        uses_positions=case.op == "rotary_cache_write",
    )


def _experts(case: OpCase) -> OpBody:
    """Routing and experts together: a wrong choice or weight shows in the sum."""
    width, mlp, experts = case.size("width"), case.size("mlp"), case.size("experts")
    routing = {name: value for name, value in case.attrs.items() if name != "act"}

    def trace(o: OpTrace) -> Value:
        logits = o.t.linear(o.x, o.weight("router", experts, width), out_dtype="f32")
        ids, weights = o.t.route_experts(logits, **routing)
        w13, w2 = o.weight("w13", experts, 2 * mlp, width), o.weight("w2", experts, width, mlp)
        return o.t.experts(o.x, ids, weights, w13, w2, act=case.attrs.get("act", "silu"))

    return OpBody(width, width, trace)


def _add_rms_norm(case: OpCase) -> OpBody:
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        a, b = o.t.split(o.x, sizes=shape_of(width, width))
        return o.t.add_rms_norm(a, b, o.weight("w", width), **case.attrs)[case.size("result")]

    return OpBody(2 * width, width, trace)


def _all_reduce(case: OpCase) -> OpBody:
    """The collective of one rank: the sum of one piece, plus the bias once."""
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        operands = (o.x, o.weight("b", width)) if case.size("bias") else (o.x,)
        y: Value = o.t.apply("all_reduce", operands, {})
        return y

    return OpBody(width, width, trace)


def _all_gather(case: OpCase) -> OpBody:
    """The collective of one rank, as a head ends with it: its own piece without the padding."""
    width, kept = case.size("width"), case.size("kept")

    def trace(o: OpTrace) -> Value:
        pieces = o.t.linear(o.x, o.weight("w", "vocab", width), out_dtype="f32")
        y: Value = o.t.apply("all_gather", (pieces,), {"axis": -1, "size": Dim.of(kept)})
        return y

    return OpBody(width, kept, trace, in_head=True)


BUILDERS: dict[str, Callable[[OpCase], OpBody]] = {
    "embedding": _embedding,
    "linear": _linear,
    "rms_norm": _norm,
    "layer_norm": _norm,
    "add": _two_operands,
    "scale": _one_operand,
    "softcap": _one_operand,
    "activation": _one_operand,
    "gated_activation": _two_operands,
    "split": _split,
    "reshape": _reshape,
    "take_rows": _take_rows,
    "rotary": _rotary,
    "cache_write": _paged_attention,
    "paged_attention": _paged_attention,
    "route_experts": _experts,
    "experts": _experts,
    "add_rms_norm": _add_rms_norm,
    "rotary_cache_write": _paged_attention,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
}
"""Op -> how its case is built."""
