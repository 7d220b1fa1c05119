"""What a value's dtype means in a run: the arrays' dtype, and the bytes of an element."""

from __future__ import annotations

from collections.abc import Mapping

from quire.graph.ir import ValueDtype

_FIXED: Mapping[ValueDtype, tuple[str, int]] = {"f32": ("float32", 4), "i32": ("int32", 4), "bool": ("bool", 1)}
"""Dtypes that no run changes. `act` follows the run; a cache holds several arrays and has none of its own."""


def array_dtype(dtype: ValueDtype, act_dtype: str) -> str:
    """The dtype of a value's array, by its name in numpy and ml_dtypes."""
    return act_dtype if dtype == "act" else _FIXED[dtype][0]


def element_bytes(act_bytes: int) -> dict[ValueDtype, int]:
    """Bytes of an element of each dtype, where activations take `act_bytes`."""
    return {"act": act_bytes, **{name: num_bytes for name, (_, num_bytes) in _FIXED.items()}}
