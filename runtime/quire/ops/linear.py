"""linear: a product with a weight. Every row is multiplied on its own.

A matrix product's bits depend on its number of rows (BLAS picks other kernels), a matrix-vector product of
fixed shape and layout has no such freedom. So a row's result here never depends on the rest of the batch.
"""

from __future__ import annotations

import numpy as np

from quire.graph.ir import Value
from quire.graph.op_spec import OpArgs, OpSpec, Outputs, shape_error
from quire.graph.shapes import Dim, num_elements
from quire.ops.declaration import Op
from quire.ops.kit import FoundCase, KitCase, NodeOfModel, OpBody, OpKit, OpTrace
from quire.ops.kit_rows import nothing_draw
from quire.ops.rounding import as_f32, round_to


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, out_dtype: str = "act") -> np.ndarray:
    """x @ weight.T + bias, accumulated in float32.

    Args:
        x: [..., in]. weight: [out, in]. bias: [out] or None.
        out_dtype: "act" = x's dtype, "f32" = not rounded (routers, logits).
    Returns: [..., out].
    """
    x32 = as_f32(x)
    out = rows_times(x32.reshape(-1, x32.shape[-1]), as_f32(weight)).reshape(*x.shape[:-1], weight.shape[0])
    if bias is not None:
        out = out + as_f32(bias)
    return out if out_dtype == "f32" else round_to(out, x.dtype)


def rows_times(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x @ weight.T, one row at a time: float32 [T, in] by float32 [out, in], both C-contiguous, to [T, out]."""
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    for row, result in zip(x, out, strict=True):
        np.matmul(weight, row, out=result)
    return out


def _shape(args: OpArgs) -> Outputs:
    x, w = args.shape(0), args.weight_shape(0)
    if len(w) != 2 or x[-1] != w[1]:
        raise shape_error("linear", f"x is {x}, the weight is {w}; x's last dimension must equal the weight's second")
    bias = args.weights[1]
    if bias is not None and bias.shape != w[:1]:
        raise shape_error("linear", f"the bias is {bias.shape}, the weight is {w}")
    return (((*x[:-1], w[0]), args.attrs["out_dtype"]),)


def _flops(args: OpArgs) -> Dim:
    return num_elements(args.shape(0)) * args.weight_shape(0)[0] * 2


def _body(case: KitCase) -> OpBody:
    width, out, bias, in_head = case.size("width"), case.size("out"), case.size("bias"), bool(case.size("in_head"))

    def trace(o: OpTrace) -> Value:
        rows = "vocab" if in_head else out
        return o.t.linear(
            o.x,
            o.weight("w", rows, width),
            o.weight("b", rows) if bias else None,
            out_dtype="f32" if in_head else "act",
        )

    return OpBody(width, out, trace, in_head=in_head)


def _of_node(n: NodeOfModel) -> FoundCase:
    out, width = n.weight_shape(0)
    return {"width": n.cut(width), "out": n.cut(out), "bias": int(n.has_weight(1))}, {}


OP = Op(
    spec=OpSpec(
        name="linear",
        inputs=("x",),
        weights=("weight", "bias?"),
        outputs=("out",),
        attrs={"out_dtype": "act"},
        attr_types={"out_dtype": "ValueDtype"},
        shape=_shape,
        flops=_flops,
        contracts=lambda args: (args.weight_shape(0)[1],),
    ),
    reference=linear,
    kit=OpKit(
        body=_body,
        cases=(
            ("square", {"width": 32, "out": 32}, {}, {}),
            ("odd_sizes", {"width": 37, "out": 19}, {}, {"lines": ((0, 7),)}),
            ("one_row_bias", {"width": 48, "out": 17, "bias": 1}, {}, {"lines": ((0, 1),)}),
            ("wide_sum", {"width": 1030, "out": 8}, {}, {"lines": ((0, 2),)}),
            ("f32_result_bias", {"width": 40, "out": 33, "bias": 1, "in_head": 1}, {}, {}),
            ("large_values", {"width": 64, "out": 16}, {}, {"spread": 100.0}),
            ("many_rows", {"width": 16, "out": 24}, {}, {"lines": ((0, 65),)}),
        ),
        draw=lambda st: (
            st.fixed_dictionaries(
                {"width": st.integers(1, 200), "out": st.integers(1, 120), "bias": st.integers(0, 1)}
            ),
            nothing_draw(st),
        ),
        of_node=_of_node,
        takes_matrices=True,
    ),
)
