"""Dtypes of the reference: names as the contract spells them, and the one place where numbers are rounded."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from quire.errors import ConfigError

_DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a contract dtype name; ConfigError on an unknown one."""
    if name not in _DTYPES:
        raise ConfigError(f"dtype {name!r} is not known to the reference", try_=f"one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def as_f32(array: np.ndarray) -> np.ndarray:
    """The array in float32 and C-contiguous, so that the order of additions never depends on strides."""
    return np.ascontiguousarray(array, dtype=np.float32)


def round_to(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array rounded to `dtype`, to nearest even; too large for float16 becomes inf, silently as on devices."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)
