"""Into float32 and out of it: the only places where the reference changes a number's precision."""

from __future__ import annotations

import numpy as np


def as_f32(array: np.ndarray) -> np.ndarray:
    """The array in float32 and C-contiguous, so that the order of additions never depends on strides."""
    return np.ascontiguousarray(array, dtype=np.float32)


def round_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array rounded to `dtype`, to nearest even; too large for float16 becomes inf, silently as on devices."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)
