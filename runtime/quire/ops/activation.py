"""activation: an activation function of every element."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpSpec, elementwise_flops
from quire.ops.activations import ACTIVATIONS, activate
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import activation_draw, elementwise_of_node, one_operand
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import like_input


def activation(x: np.ndarray, *, act: str) -> np.ndarray:
    """act(x), rounded once; `act` is a name of `quire.ops.activations.ACTIVATIONS`.

    x is [...] in the activation dtype, as is the result.
    """
    return round_to(activate(as_f32(x), act), x.dtype)


OP = Op(
    spec=OpSpec(
        name="activation",
        inputs=("x",),
        weights=(),
        outputs=("out",),
        attrs={"act": REQUIRED},
        attr_types={"act": "str"},
        shape=like_input,
        flops=elementwise_flops(8),
        in_place=((0, 0),),
    ),
    reference=activation,
    kit=OpKit(
        body=one_operand,
        cases=tuple((act, {"width": 24}, {"act": act}, {"spread": 3.0}) for act in ACTIVATIONS),
        draw=activation_draw,
        of_node=elementwise_of_node,
    ),
)
