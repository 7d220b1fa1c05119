"""How stacked weights lie in a chip's memory, where its default would make every step copy them all.

A scan over layers reads slices of stacked matrices. On TPU7x the compiler wants those in tiles of 16 rows, while
arrays come in tiles of 8 unless told otherwise; the step would then begin by writing every matrix anew, at the price of
reading and writing all weights once more. `python -m quire_tpu.aot` shows whether a step copies its weights.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import Sharding

STACKED_TILES = {"TPU7x": ((16, 128), (2, 1))}
"""Device kind -> tiles of stacked bfloat16 matrices: rows x lanes, then the pairs that share a 32-bit word."""


def stacked_format(sharding: Sharding, device_kind: str, num_dims: int, dtype: Any) -> Sharding | Format:
    """Where and how an array of stacked matrices is put: the sharding alone where the chip's default is right.

    XLA keeps such tiles for arguments on one chip only; of those that are cut over several it drops them.

    Args:
        num_dims: dimensions of the stacked array.
    """
    tiles = STACKED_TILES.get(device_kind)
    if tiles is None or jnp.dtype(dtype) != jnp.bfloat16:
        return sharding
    return Format(Layout(tuple(range(num_dims)), tiles), sharding)
