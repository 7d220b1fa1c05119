"""all_reduce: the sum over ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import OpArgs, OpSpec, Outputs
from quire.ops.collectives import check_one_rank, world_size_keyword
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit, OpTrace
from quire.ops.kit_rows import nothing_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import check_vectors, no_flops, same_as_input


def all_reduce(x: np.ndarray, bias: np.ndarray | None = None, *, world_size: int = 1) -> np.ndarray:
    """The sum over ranks, plus the bias of the row-cut linear that made the pieces; with one rank, x + bias.

    x is [..., D] in any float dtype, as is the result; bias is [D].
    """
    check_one_rank("all_reduce", world_size)
    return x if bias is None else round_to(as_f32(x) + as_f32(bias), x.dtype)


def _shape(args: OpArgs) -> Outputs:
    check_vectors("all_reduce", args)
    return same_as_input(args)


def _body(case: KitCase) -> OpBody:
    """The collective of one rank: the sum of one piece, plus the bias once."""
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        return o.t.all_reduce(o.x, o.weight("b", width) if case.size("bias") else None)

    return OpBody(width, width, trace)


def _draw(st: Any) -> tuple[Any, Any]:
    return st.fixed_dictionaries({"width": st.integers(1, 90), "bias": st.integers(0, 1)}), nothing_draw(st)


OP = Op(
    spec=OpSpec(
        name="all_reduce",
        inputs=("x",),
        weights=("bias?",),
        outputs=("out",),
        attrs={},
        shape=_shape,
        flops=no_flops,
        in_place=((0, 0),),
    ),
    reference=all_reduce,
    run_keywords=world_size_keyword,
    kit=OpKit(
        body=_body,
        cases=(("one_rank", {"width": 24}, {}, {}), ("one_rank_bias", {"width": 37, "bias": 1}, {}, {})),
        draw=_draw,
    ),
)
