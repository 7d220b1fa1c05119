"""Rotary position embedding. T tokens, H heads, d head_dim, r rotated dimensions (r <= d)."""

from __future__ import annotations

import numpy as np

from quire.errors import InternalError
from quire.graph.rope import RopeSpec, rope_rows, rope_table
from quire.reference.rounding import as_f32, round_to


def rotary(
    x: np.ndarray, positions: np.ndarray, *, table: RopeSpec, style: str = "neox", max_len: int | None = None
) -> np.ndarray:
    """Rotates pairs of the first `table.dims` elements of every head by an angle that grows with the position.

    Args:
        x: [T, H, d]. positions: int32 [T], each in [0, max_len).
        style: "neox" pairs element i with i + r/2; "gptj" pairs 2i with 2i + 1.
        max_len: no position reaches it; None = nobody says.
    Source: arXiv:2104.09864. Tables: `quire.graph.rope.rope_table`.
    """
    if positions.size == 0:
        return x.copy()
    needed = int(positions.max()) + 1
    cos, sin = rope_table(table, rope_rows(needed, needed if max_len is None else max_len))
    cos, sin = cos[positions][:, None, :], sin[positions][:, None, :]  # [T, 1, r/2]
    rotated = as_f32(x).copy()
    first, second = _pairs(table.dims, style)
    a, b = rotated[..., first].copy(), rotated[..., second].copy()
    rotated[..., first] = a * cos - b * sin
    rotated[..., second] = b * cos + a * sin
    return round_to(rotated, x.dtype)


def _pairs(dims: int, style: str) -> tuple[slice, slice]:
    """Where the first and second elements of the pairs are."""
    if style == "neox":
        return slice(0, dims // 2), slice(dims // 2, dims)
    if style == "gptj":
        return slice(0, dims, 2), slice(1, dims, 2)
    raise InternalError(f"rotary style {style!r} has no reference", because="styles are neox and gptj")
