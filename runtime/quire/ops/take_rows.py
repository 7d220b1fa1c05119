"""take_rows: rows by number."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import OpArgs, OpSpec, Outputs
from quire.ops.declaration import Op
from quire.ops.kit import KitCase, OpBody, OpKit
from quire.ops.kit_rows import nothing_draw, width_draw
from quire.ops.shape_rules import no_flops, present


def take_rows(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """x[rows]: rows int32 [L] of x [T, ...], in x's dtype."""
    return x[rows]


def _shape(args: OpArgs) -> Outputs:
    value = present(args, 0)
    return (((*args.shape(1), *value.shape[1:]), value.dtype),)


def _body(case: KitCase) -> OpBody:
    """The head's own."""
    width = case.size("width")
    return OpBody(width, width, lambda o: o.t.scale(o.x, factor=1.0))


OP = Op(
    spec=OpSpec(
        name="take_rows",
        inputs=("x", "rows"),
        weights=(),
        outputs=("out",),
        attrs={},
        shape=_shape,
        flops=no_flops,
        row_independent=False,
        reads_what_it_gives=True,
    ),
    reference=take_rows,
    kit=OpKit(
        body=_body,
        cases=(("shuffled_repeated", {"width": 24}, {}, {"lines": ((0, 9), (0, 4))}),),
        draw=lambda st: (width_draw(st), nothing_draw(st)),
        shuffles_rows=True,
    ),
)
