"""gated_activation: one array through an activation function, times another."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.ops.activations import ACTIVATIONS, activate
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import activation_draw, elementwise_of_node, two_operands
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import check_equal, like_input


def gated_activation(gate: np.ndarray, up: np.ndarray, *, act: str) -> np.ndarray:
    """act(gate) * up, rounded once; `act` is a name of `quire.ops.activations.ACTIVATIONS`.

    gate and up are [...] in the activation dtype, as is the result. Source: arXiv:2002.05202.
    """
    return round_to(activate(as_f32(gate), act) * as_f32(up), gate.dtype)


def _shape(args: OpArgs) -> Outputs:
    check_equal("gated_activation", args, "gate {} and up {} differ")
    return like_input(args)


OP = Op(
    spec=OpSpec(
        name="gated_activation",
        inputs=("gate", "up"),
        weights=(),
        outputs=("out",),
        attrs={"act": REQUIRED},
        attr_types={"act": "str"},
        shape=_shape,
        flops=elementwise_flops(9),
        in_place=((0, 0), (1, 0)),
    ),
    reference=gated_activation,
    kit=OpKit(
        body=two_operands,
        cases=(
            *((act, {"width": 24}, {"act": act}, {"spread": 3.0}) for act in ACTIVATIONS),
            ("saturated", {"width": 24}, {"act": "silu"}, {"spread": 60.0}),
        ),
        draw=activation_draw,
        of_node=elementwise_of_node,
    ),
)
