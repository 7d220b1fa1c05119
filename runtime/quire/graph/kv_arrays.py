"""What a KV cache of a dtype holds: the arrays of a group's spec, and the scales of a quantized one beside them.

An int8 cache holds each key and each value of a head as `scale * q`: q int8 in -127..127, scale float32 = max|x| / 127,
x / scale rounded to nearest even. A vector with an element that is not finite has a NaN scale and q = 0. What is
attended is always what the cache holds, for the tokens of the same step too, so that chunking changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import KVGroupSpec
from quire.graph.shapes import Shape

QUANTIZED_KV_DTYPES = frozenset({"int8"})
"""KV dtypes whose vectors have a scale each."""


@dataclass(frozen=True, slots=True)
class HeldArray:
    """One array of a cache: its shape per token (per sequence for `state` groups) and the dtype it is held in."""

    name: str
    shape: Shape
    dtype: str


def held_arrays(group: KVGroupSpec, kv_dtype: str) -> tuple[HeldArray, ...]:
    """The arrays that a group's cache of `kv_dtype` holds, as host pages have them.

    A quantized dtype adds to each array of the dtype "kv" a float32 `<name>_scale` without its last dimension:
    k [kv_heads, head_dim] int8 has k_scale [kv_heads]. So pages go to the host and back bit for bit.
    """
    held: list[HeldArray] = []
    for array in group.arrays:
        held.append(HeldArray(array.name, array.shape, "float32" if array.dtype == "f32" else kv_dtype))
        if array.dtype == "kv" and kv_dtype in QUANTIZED_KV_DTYPES:
            held.append(HeldArray(f"{array.name}_scale", array.shape[:-1], "float32"))
    return tuple(held)
