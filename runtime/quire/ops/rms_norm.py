"""rms_norm: rows divided by their root mean square."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_rows import norm, norm_of_node, rms_draw, width_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import check_vectors, like_input


def rms_norm(
    x: np.ndarray, weight: np.ndarray, *, eps: float, weight_offset: float = 0.0, round_before_weight: bool = False
) -> np.ndarray:
    """x / sqrt(mean(x**2) + eps) * (weight + weight_offset), over the last dimension.

    Args:
        x: [..., D] in the activation dtype. weight: [D].
        weight_offset: added to the weight in float32 (Gemma stores w - 1).
        round_before_weight: the normalized x is rounded to the activation dtype before the product (Llama, Qwen).
    Returns: x's shape in the activation dtype.
    Source: arXiv:1910.07467.
    """
    x32 = as_f32(x)
    normed = x32 * (np.float32(1) / np.sqrt(np.mean(x32 * x32, axis=-1, keepdims=True) + np.float32(eps)))
    if round_before_weight:
        normed = as_f32(round_to(normed, x.dtype))
    return round_to(normed * (as_f32(weight) + np.float32(weight_offset)), x.dtype)


def _shape(args: OpArgs) -> Outputs:
    check_vectors("rms_norm", args)
    return like_input(args)


OP = Op(
    spec=OpSpec(
        name="rms_norm",
        inputs=("x",),
        weights=("weight",),
        outputs=("out",),
        attrs={"eps": REQUIRED, "weight_offset": 0.0, "round_before_weight": False},
        attr_types={"eps": "float"},
        shape=_shape,
        flops=elementwise_flops(4),
        in_place=((0, 0),),
        reads_whole_rows=True,
        weight_center=lambda args: 1.0 - args.attrs["weight_offset"],
    ),
    reference=rms_norm,
    kit=OpKit(
        body=norm,
        cases=(
            ("plain", {"width": 40}, {"eps": 1e-6}, {}),
            ("offset", {"width": 40}, {"eps": 1e-6, "weight_offset": 1.0}, {}),
            ("round_before_weight", {"width": 33}, {"eps": 1e-5, "round_before_weight": True}, {}),
            ("tiny_values_under_eps", {"width": 32}, {"eps": 1e-5}, {"spread": 1e-3}),
            ("squares_beyond_float16", {"width": 32}, {"eps": 1e-6}, {"spread": 900.0}),
            ("per_head", {"heads": 3, "head_dim": 16}, {"eps": 1e-6}, {}),
        ),
        draw=lambda st: (width_draw(st), rms_draw(st)),
        of_node=norm_of_node,
    ),
)
