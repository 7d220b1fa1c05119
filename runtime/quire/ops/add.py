"""add: the sum of two arrays."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import OpArgs, OpSpec, Outputs, elementwise_flops
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import nothing_draw, two_operands, width_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import check_equal, like_input


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b in float32, rounded once. Both are [...] in the activation dtype, as is the result."""
    return round_to(as_f32(a) + as_f32(b), a.dtype)


def sum_shape(args: OpArgs) -> Outputs:
    """Also of the first result of add_rms_norm."""
    check_equal("add", args, "{} and {} differ")
    return like_input(args)


OP = Op(
    spec=OpSpec(
        name="add",
        inputs=("a", "b"),
        weights=(),
        outputs=("out",),
        attrs={},
        shape=sum_shape,
        flops=elementwise_flops(1),
        in_place=((0, 0), (1, 0)),
    ),
    reference=add,
    kit=OpKit(
        body=two_operands,
        cases=(("plain", {"width": 24}, {}, {}), ("one_row", {"width": 7}, {}, {"lines": ((0, 1),)})),
        draw=lambda st: (width_draw(st), nothing_draw(st)),
    ),
)
