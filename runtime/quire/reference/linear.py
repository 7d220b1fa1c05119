"""Products with weights. Every row is multiplied on its own.

A matrix product's bits depend on its number of rows (BLAS picks other kernels), a matrix-vector product of
fixed shape and layout has no such freedom. So a row's result here never depends on the rest of the batch.
"""

from __future__ import annotations

import numpy as np

from quire.reference.rounding import as_f32, round_to


def embedding(ids: np.ndarray, weight: np.ndarray, *, scale: float = 1.0, dtype: np.dtype | None = None) -> np.ndarray:
    """Rows of `weight` by token id, times `scale`.

    Args:
        ids: int32 [T], all in [0, V). weight: [V, D].
        scale: rounded to the activation dtype first (Gemma: sqrt(D) in bfloat16).
        dtype: the activation dtype; None = the weight's.
    Raises: IndexError on an id outside the table.
    """
    if ids.size and int(ids.min()) < 0:
        raise IndexError(f"token id {int(ids.min())} is negative")
    act = weight.dtype if dtype is None else dtype
    rows = as_f32(weight[ids])
    factor = np.asarray(scale, np.float32).astype(act).astype(np.float32)
    return round_to(rows * factor, act)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, out_dtype: str = "act") -> np.ndarray:
    """x @ weight.T + bias, accumulated in float32.

    Args:
        x: [..., in]. weight: [out, in]. bias: [out] or None.
        out_dtype: "act" = x's dtype, "f32" = not rounded (routers, logits).
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
