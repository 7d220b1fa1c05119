"""Fused ops: exactly the plain ops they stand for, one after the other, with the same rounding between them."""

from __future__ import annotations

import numpy as np

from quire.graph.rope import RopeSpec
from quire.reference.attention import PagedCache, cache_write
from quire.reference.elementwise import add
from quire.reference.norms import rms_norm
from quire.reference.rotary import rotary


def add_rms_norm(
    a: np.ndarray,
    b: np.ndarray,
    weight: np.ndarray,
    *,
    eps: float,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(a + b, rms_norm(a + b)); the norm reads the rounded sum."""
    total = add(a, b)
    normed = rms_norm(total, weight, eps=eps, weight_offset=weight_offset, round_before_weight=round_before_weight)
    return total, normed


def rotary_cache_write(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    positions: np.ndarray,
    cache: PagedCache,
    *,
    slots: np.ndarray,
    table: RopeSpec,
    style: str = "neox",
    max_len: int | None = None,
) -> tuple[np.ndarray, PagedCache]:
    """(rotary(q), cache with rotary(k) and v written)."""
    rotated_k = rotary(k, positions, table=table, style=style, max_len=max_len)
    return (
        rotary(q, positions, table=table, style=style, max_len=max_len),
        cache_write(cache, rotated_k, v, slots=slots),
    )
