"""The int8 KV cache: vectors as scale * q. `quire.graph.kv_arrays` says what is held; here it is computed."""

from __future__ import annotations

import numpy as np

from quire.ops.rounding import as_f32


def quantize_vectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 of x's shape, float32 scales [...]) of the vectors in x's last dimension.

    scale = max|x| / 127 and q = x / scale to nearest even, in float32; a vector that is not finite: NaN and 0.
    """
    x32 = as_f32(x)
    most = np.abs(x32).max(axis=-1)
    scales = np.where(np.isfinite(most), most, np.float32(np.nan)) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))[..., None]
    with np.errstate(invalid="ignore"):
        units = np.nan_to_num(np.rint(x32 / divisors))
    return np.clip(units, -127, 127).astype(np.int8), scales


def dequantize_vectors(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 of q's shape."""
    return as_f32(q) * scales[..., None]
