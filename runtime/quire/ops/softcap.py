"""softcap: values kept inside a range, smoothly."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpSpec, elementwise_flops
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import elementwise_of_node, one_operand, width_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import same_as_input


def softcap(x: np.ndarray, *, cap: float) -> np.ndarray:
    """cap * tanh(x / cap): keeps values inside (-cap, cap).

    x is [...] in the activation dtype or float32, as is the result. Source: Gemma 2, arXiv:2408.00118.
    """
    return round_to(capped(as_f32(x), cap), x.dtype)


def capped(x: np.ndarray, cap: float) -> np.ndarray:
    """`softcap` on float32."""
    return np.float32(cap) * np.tanh(x / np.float32(cap))


OP = Op(
    spec=OpSpec(
        name="softcap",
        inputs=("x",),
        weights=(),
        outputs=("out",),
        attrs={"cap": REQUIRED},
        attr_types={"cap": "float"},
        shape=same_as_input,
        flops=elementwise_flops(8),
        in_place=((0, 0),),
    ),
    reference=softcap,
    kit=OpKit(
        body=one_operand,
        cases=(
            ("layer", {"width": 24}, {"cap": 5.0}, {"spread": 4.0}),
            ("f32", {"width": 24, "in_head": 1}, {"cap": 5.0}, {"spread": 4.0}),
            ("far_beyond_cap", {"width": 24}, {"cap": 30.0}, {"spread": 1000.0}),
        ),
        draw=lambda st: (width_draw(st), st.fixed_dictionaries({"cap": st.floats(0.5, 50.0, width=32)})),
        of_node=elementwise_of_node,
    ),
)
