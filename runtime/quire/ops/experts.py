"""experts: the feed-forward blocks that a token was routed to. T tokens, D hidden, E experts, k a token, M mlp."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, shape_error
from quire.graph.shapes import Dim
from quire.ops.activations import activate
from quire.ops.declaration import Op
from quire.ops.kit import MOST_EXPERT_FEATURES, FoundCase, NodeOfModel, OpKit
from quire.ops.kit_experts import routed_experts, routing_draw
from quire.ops.rounding import as_f32, round_to
from quire.ops.shape_rules import like_input


def experts(
    x: np.ndarray, ids: np.ndarray, weights: np.ndarray, w13: np.ndarray, w2: np.ndarray, *, act: str
) -> np.ndarray:
    """Sum over a token's experts, in the order of `ids`, of weight * w2[e] @ (act(w1[e] @ x) * (w3[e] @ x)).

    Args:
        x: [T, D]. ids: int32 [T, k]. weights: float32 [T, k].
        w13: [E, 2*M, D], the rows of w1 (gate) above those of w3 (up). w2: [E, D, M].
        act: a name of `quire.ops.activations.ACTIVATIONS`.
    Returns: [T, D] in x's dtype, rounded once.
    Source: arXiv:2401.04088.
    """
    x32, weights32 = as_f32(x), as_f32(weights)
    used = {int(e): (as_f32(w13[e]), as_f32(w2[e])) for e in np.unique(ids)}
    out = np.zeros(x.shape, np.float32)
    for row in range(x.shape[0]):
        for expert, weight in zip(ids[row], weights32[row], strict=True):
            w13_e, w2_e = used[int(expert)]
            gate, up = np.split(np.matmul(w13_e, x32[row]), 2)
            out[row] += weight * np.matmul(w2_e, activate(gate, act) * up)
    return round_to(out, x.dtype)


def _shape(args: OpArgs) -> Outputs:
    x, w13, w2 = args.shape(0), args.weight_shape(0), args.weight_shape(1)
    if w13[2] != x[-1] or w2[1] != x[-1] or w13[1] != w2[2] * 2:
        raise shape_error("experts", f"x {x}, w13 {w13} = [ep, 2*mlp, D], w2 {w2} = [ep, D, mlp]")
    return like_input(args)


def _flops(args: OpArgs) -> Dim:
    w13, rows, k = args.weight_shape(0), args.shape(1)[0], args.shape(1)[1]
    return rows * k * w13[1] * w13[2] * 3


def _workspace(args: OpArgs) -> Dim:
    return args.shape(1)[0] * args.shape(1)[1] * (args.weight_shape(0)[1] + args.weight_shape(0)[2]) * 4


def _bytes_reached(args: OpArgs, sizes: Mapping[str, int], num_bytes: int) -> int:
    """Of the experts that the step's tokens reach if routing is even."""
    rows, k = (dim.evaluate(sizes) for dim in args.shape(1))
    num_experts = args.weight_shape(0)[0].evaluate(sizes)
    reached = 1 - (1 - min(1.0, k / num_experts)) ** rows
    return int(num_bytes * reached)


def _of_node(n: NodeOfModel) -> FoundCase:
    num_experts, width, mlp = n.weight_shape(1)
    routing = next(n.attrs_of(other) for other in n.graph.nodes if other.op == "route_experts")
    sizes = {
        "width": n.cut(width, MOST_EXPERT_FEATURES),
        "mlp": n.cut(mlp, MOST_EXPERT_FEATURES),
        "experts": min(num_experts, max(16, routing["k"] + 1)),
    }
    return sizes, {**routing, **n.attrs()}


OP = Op(
    spec=OpSpec(
        name="experts",
        inputs=("x", "ids", "weights"),
        weights=("w13", "w2"),
        outputs=("out",),
        attrs={"act": REQUIRED},
        attr_types={"act": "str"},
        shape=_shape,
        flops=_flops,
        workspace=_workspace,
        contracts=lambda args: (args.weight_shape(0)[0], args.weight_shape(1)[2]),
        weight_bytes_read=_bytes_reached,
    ),
    reference=experts,
    kit=OpKit(
        body=routed_experts,
        cases=(
            ("one_of_four", {"width": 24, "mlp": 40, "experts": 4}, {"k": 1}, {}),
            ("all", {"width": 16, "mlp": 8, "experts": 3}, {"k": 3}, {}),
            (
                "gelu_one_row",
                {"width": 16, "mlp": 24, "experts": 5},
                {"k": 2, "act": "gelu_tanh"},
                {"lines": ((0, 1),)},
            ),
        ),
        draw=routing_draw,
        of_node=_of_node,
        takes_matrices=True,
    ),
)
