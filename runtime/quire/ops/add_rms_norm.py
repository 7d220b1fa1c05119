"""add_rms_norm: `add`, then `rms_norm`, with the same rounding between them."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.graph.shapes import shape_of
from quire.ops.add import add, sum_shape
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit, OpTrace, Row
from quire.ops.kit_rows import rms_draw
from quire.ops.rms_norm import rms_norm
from quire.ops.shape_rules import check_vectors, like_input


def add_rms_norm(
    a: np.ndarray,
    b: np.ndarray,
    weight: np.ndarray,
    *,
    eps: float,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(a + b, rms_norm(a + b)); the norm reads the rounded sum. Operands and attributes are those of the two ops."""
    total = add(a, b)
    normed = rms_norm(total, weight, eps=eps, weight_offset=weight_offset, round_before_weight=round_before_weight)
    return total, normed


def _shape(args: OpArgs) -> Outputs:
    check_vectors("add_rms_norm", args)
    return (*sum_shape(args), *like_input(args))


def _body(case: KitCase) -> OpBody:
    width = case.size("width")

    def trace(o: OpTrace) -> Value:
        a, b = o.t.split(o.x, sizes=shape_of(width, width))
        return o.t.add_rms_norm(a, b, o.weight("w", width), **case.attrs)[case.size("result")]

    return OpBody(2 * width, width, trace)


def _both_results(variant: str, attrs: dict[str, Any]) -> tuple[Row, Row]:
    first, second = ({"width": 40, "result": result} for result in (0, 1))
    return (f"{variant}_sum", first, attrs, {}), (f"{variant}_normed", second, attrs, {})


def _draw(st: Any) -> tuple[Any, Any]:
    return st.fixed_dictionaries({"width": st.integers(1, 90), "result": st.integers(0, 1)}), rms_draw(st)


OP = Op(
    spec=OpSpec(
        name="add_rms_norm",
        inputs=("a", "b"),
        weights=("weight",),
        outputs=("sum", "normed"),
        attrs={"eps": REQUIRED, "weight_offset": 0.0, "round_before_weight": False},
        attr_types={"eps": "float"},
        shape=_shape,
        flops=elementwise_flops(5),
        in_place=((0, 0), (1, 0)),
        reads_whole_rows=True,
        weight_center=lambda args: 1.0 - args.attrs["weight_offset"],
        fused_from=("add", "rms_norm"),
    ),
    reference=add_rms_norm,
    kit=OpKit(
        body=_body,
        cases=(
            *_both_results("plain", {"eps": 1e-6}),
            *_both_results("offset", {"eps": 1e-6, "weight_offset": 1.0}),
            *_both_results("round_before_weight", {"eps": 1e-5, "round_before_weight": True}),
        ),
        draw=_draw,
    ),
)
