"""A step's vector, taken apart inside the compiled step (`quire.device.step_vector` puts it together)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from quire.device.step_vector import StepShape

_DTYPES = {"float32": jnp.float32, "uint32": jnp.uint32}


def unpack(vector: jax.Array, shape: StepShape) -> Mapping[str, jax.Array]:
    """The vector's arrays by name."""
    arrays: dict[str, jax.Array] = {}
    for field, start in shape.layout().places():
        array = vector[start : start + field.size].reshape(field.shape)
        dtype = _DTYPES.get(field.dtype)
        arrays[field.name] = array if dtype is None else lax.bitcast_convert_type(array, dtype)
    return arrays
