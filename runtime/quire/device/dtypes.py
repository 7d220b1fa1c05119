"""The contract's dtype names in numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from quire.errors import ConfigError

_DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
    "int32": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
}


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a contract dtype name; ConfigError on an unknown one."""
    if name not in _DTYPES:
        raise ConfigError(f"dtype {name!r} is not in the contract", because=f"it has {', '.join(_DTYPES)}")
    return _DTYPES[name]
