"""layer_norm: rows with their mean taken off, divided by their standard deviation."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.ops.declaration import Op
from quire.ops.kit import FoundCase, NodeOfModel, OpKit
from quire.ops.kit_rows import norm, norm_of_node
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import check_vectors, like_input


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, eps: float) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last dimension; var is the biased variance.

    Args:
        x: [..., D] in the activation dtype. weight, bias: [D].
    Returns: x's shape in the activation dtype.
    Source: arXiv:1607.06450.
    """
    x32 = as_f32(x)
    centered = x32 - np.mean(x32, axis=-1, keepdims=True)
    variance = np.mean(centered * centered, axis=-1, keepdims=True)
    normed = centered / np.sqrt(variance + np.float32(eps)) * as_f32(weight)
    return round_to(normed if bias is None else normed + as_f32(bias), x.dtype)


def _shape(args: OpArgs) -> Outputs:
    check_vectors("layer_norm", args)
    return like_input(args)


def _of_node(n: NodeOfModel) -> FoundCase:
    sizes, attrs = norm_of_node(n)
    return {**sizes, "bias": int(n.has_weight(1))}, attrs


OP = Op(
    spec=OpSpec(
        name="layer_norm",
        inputs=("x",),
        weights=("weight", "bias?"),
        outputs=("out",),
        attrs={"eps": REQUIRED},
        attr_types={"eps": "float"},
        shape=_shape,
        flops=elementwise_flops(7),
        in_place=((0, 0),),
        reads_whole_rows=True,
        weight_center=lambda args: 1.0,
    ),
    reference=layer_norm,
    kit=OpKit(
        body=norm,
        cases=(
            ("bias", {"width": 40, "bias": 1}, {"eps": 1e-5}, {}),
            ("no_bias", {"width": 33}, {"eps": 1e-5}, {}),
            ("squares_beyond_float16", {"width": 32, "bias": 1}, {"eps": 1e-5}, {"spread": 900.0}),
        ),
        draw=lambda st: (
            st.fixed_dictionaries({"width": st.integers(2, 90), "bias": st.integers(0, 1)}),
            st.fixed_dictionaries({"eps": st.just(1e-5)}),
        ),
        of_node=_of_node,
    ),
)
