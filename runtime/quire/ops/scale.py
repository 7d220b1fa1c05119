"""scale: an array times a number."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpSpec, elementwise_flops
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import one_operand, width_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import same_as_input


def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    """x * factor; the factor is float32. x is [...] in the activation dtype or float32, as is the result."""
    return round_to(as_f32(x) * np.float32(factor), x.dtype)


OP = Op(
    spec=OpSpec(
        name="scale",
        inputs=("x",),
        weights=(),
        outputs=("out",),
        attrs={"factor": REQUIRED},
        attr_types={"factor": "float"},
        shape=same_as_input,
        flops=elementwise_flops(1),
        in_place=((0, 0),),
    ),
    reference=scale,
    kit=OpKit(
        body=one_operand,
        cases=(
            ("layer", {"width": 24}, {"factor": 0.37}, {}),
            ("f32", {"width": 24, "in_head": 1}, {"factor": 0.37}, {}),
        ),
        draw=lambda st: (width_draw(st), st.fixed_dictionaries({"factor": st.floats(0.125, 8.0, width=32)})),
    ),
)
