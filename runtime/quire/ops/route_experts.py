"""route_experts: which experts a token goes to. T tokens, E experts, k experts a token."""

from __future__ import annotations

import numpy as np

from quire.errors import InternalError
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.graph.shapes import Dim
from quire.ops.activations import sigmoid
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_experts import routed_experts, routing_draw
from quire.ops.rounding import as_f32


def route_experts(
    logits: np.ndarray, *, k: int, score: str = "softmax", normalize: bool = True, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The k best experts of every token, and their weights.

    Args:
        logits: [T, E]. score: "softmax" over all E experts, or "sigmoid" of each.
        normalize: weights are divided by their sum. scale: multiplies them last.
    Returns: ids int32 [T, k], best first, of equal ones the lower id first; weights float32 [T, k].
    Source: arXiv:2101.03961; sigmoid scores arXiv:2412.19437.
    """
    logits32 = as_f32(logits)
    if score == "softmax":
        exp = np.exp(logits32 - logits32.max(axis=-1, keepdims=True))
        scores = exp / exp.sum(axis=-1, keepdims=True)
    elif score == "sigmoid":
        scores = sigmoid(logits32)
    else:
        raise InternalError(f"router score {score!r} has no reference", because="scores are softmax and sigmoid")
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    weights = as_f32(np.take_along_axis(scores, ids, axis=-1))
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids.astype(np.int32), weights * np.float32(scale)


def _shape(args: OpArgs) -> Outputs:
    rows, k = args.shape(0)[0], Dim.of(args.attrs["k"])
    return (((rows, k), "i32"), ((rows, k), "f32"))


_SIZES = {"width": 24, "mlp": 16, "experts": 7}

OP = Op(
    spec=OpSpec(
        name="route_experts",
        inputs=("logits",),
        weights=(),
        outputs=("ids", "weights"),
        attrs={"k": REQUIRED, "score": "softmax", "normalize": True, "scale": 1.0},
        attr_types={"k": "int"},
        shape=_shape,
        flops=elementwise_flops(6),
    ),
    reference=route_experts,
    kit=OpKit(
        body=routed_experts,
        cases=(
            ("softmax", _SIZES, {"k": 2}, {}),
            ("not_normalized", _SIZES, {"k": 3, "normalize": False}, {}),
            ("sigmoid_scaled", _SIZES, {"k": 2, "score": "sigmoid", "scale": 2.5}, {}),
            ("ties_take_the_lower_id", _SIZES, {"k": 2}, {"zero_weights": frozenset({"router"})}),
        ),
        draw=routing_draw,
    ),
)
