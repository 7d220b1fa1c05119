"""rotary: rotary position embedding. T tokens, H heads, d head_dim, r rotated dimensions (r <= d)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.errors import InternalError
from quire.graph.ir import Value
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops, shape_error
from quire.graph.rope import RopeSpec, rope_rows, rope_table
from quire.ops.declaration import Op, RunContext
from quire.ops.kit import MOST_FEATURES, FoundCase, KitCase, NodeOfModel, OpBody, OpKit, OpTrace
from quire.ops.kit_attention import ROPE, heads_draw, rope_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import like_input


def rotary(
    x: np.ndarray, positions: np.ndarray, *, table: RopeSpec, style: str = "neox", max_len: int | None = None
) -> np.ndarray:
    """Rotates pairs of the first `table.dims` elements of every head by an angle that grows with the position.

    Args:
        x: [T, H, d] in the activation dtype. positions: int32 [T], each in [0, max_len).
        style: "neox" pairs element i with i + r/2; "gptj" pairs 2i with 2i + 1.
        max_len: no position reaches it; None = nobody says.
    Returns: x's shape in the activation dtype.
    Source: arXiv:2104.09864. Tables: `quire.graph.rope.rope_table`.
    """
    if positions.size == 0:
        return x.copy()
    needed = int(positions.max()) + 1
    cos, sin = rope_table(table, rope_rows(needed, needed if max_len is None else max_len))
    cos, sin = cos[positions][:, None, :], sin[positions][:, None, :]  # [T, 1, r/2]
    rotated = as_f32(x).copy()
    first, second = _pairs(table.dims, style)
    a, b = rotated[..., first].copy(), rotated[..., second].copy()
    rotated[..., first] = a * cos - b * sin
    rotated[..., second] = b * cos + a * sin
    return round_to(rotated, x.dtype)


def _pairs(dims: int, style: str) -> tuple[slice, slice]:
    """Where the first and second elements of the pairs are."""
    if style == "neox":
        return slice(0, dims // 2), slice(dims // 2, dims)
    if style == "gptj":
        return slice(0, dims, 2), slice(1, dims, 2)
    raise InternalError(f"rotary style {style!r} has no reference", because="styles are neox and gptj")


def max_len_keyword(run: RunContext) -> dict[str, Any]:
    """Of rotary and rotary_cache_write: how long tables must be."""
    return {"max_len": run.max_model_len}


def _shape(args: OpArgs) -> Outputs:
    if len(args.shape(0)) != 3:
        raise shape_error("rotary", f"x is {args.shape(0)}, not [T, heads, head_dim]")
    return like_input(args)


def _body(case: KitCase) -> OpBody:
    heads, dim = case.size("heads"), case.size("head_dim")

    def trace(o: OpTrace) -> Value:
        return o.flat(o.t.rotary(o.heads(o.x, heads, dim), o.positions, **case.attrs), heads * dim)

    return OpBody(heads * dim, heads * dim, trace, uses_positions=True)


def _of_node(n: NodeOfModel) -> FoundCase:
    _, heads, head_dim = n.shape(0)
    return {"heads": min(heads, MOST_FEATURES // head_dim), "head_dim": head_dim}, n.attrs()


_TWO, _THREE = {"heads": 2, "head_dim": 16}, {"heads": 3, "head_dim": 16}
_LLAMA3 = RopeSpec(1e4, 16, "llama3", 8.0, original_max_len=32)
_YARN = RopeSpec(1e4, 16, "yarn", 4.0, original_max_len=512, attention_factor=1.14)

OP = Op(
    spec=OpSpec(
        name="rotary",
        inputs=("x", "positions"),
        weights=(),
        outputs=("out",),
        attrs={"table": REQUIRED, "style": "neox"},
        attr_types={"table": "RopeSpec"},
        shape=_shape,
        flops=elementwise_flops(3),
        in_place=((0, 0),),
    ),
    reference=rotary,
    run_keywords=max_len_keyword,
    kit=OpKit(
        body=_body,
        cases=(
            ("neox", _THREE, {"table": ROPE}, {"lines": ((5, 4), (0, 2), (90, 1))}),
            ("gptj", _THREE, {"table": ROPE, "style": "gptj"}, {"lines": ((5, 4),)}),
            ("partial", _TWO, {"table": RopeSpec(5e5, 8)}, {"lines": ((5, 4),)}),
            ("linear", _TWO, {"table": RopeSpec(1e4, 16, "linear", 4.0)}, {"lines": ((50, 3),)}),
            ("llama3", _TWO, {"table": _LLAMA3}, {"lines": ((60, 3),)}),
            ("yarn", _TWO, {"table": _YARN}, {"lines": ((60, 3),)}),
        ),
        draw=lambda st: (heads_draw(st), rope_draw(st)),
        of_node=_of_node,
    ),
)
