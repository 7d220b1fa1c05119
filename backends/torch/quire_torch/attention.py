"""Attention over a paged KV cache in plain torch: pages are gathered, then multiplied. Slow and clear.

A cache is `{"k": [blocks + 1, block_size, KV, d], "v": [blocks + 1, block_size, KV, dv]}`; its last block takes the
rows whose block is not resident, and is never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from quire_torch.elementwise import capped

PagedCache = Mapping[str, torch.Tensor]


def cache_write(cache: PagedCache, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
    """Stores k and v [T, KV, d] at `slots` int64 [T], rounded to the KV dtype."""
    for name, rows in (("k", k), ("v", v)):
        array = cache[name]
        array.view(-1, *array.shape[2:])[slots] = rows.to(array.dtype)


@dataclass(frozen=True, slots=True)
class Tile:
    """Query rows and the keys they see: n sequences with q rows each, over p pages each.

    Attributes:
        rows: int64 [n * q], the tokens of the step.
        pages: int64 [n, p], block ids; where nothing is resident, the block that is never read.
        seen: bool [n, q, p * block_size].
        index: int64 [n, q], each row's place among its sequence's keys. keys: int64 [n, p * block_size], likewise.
    """

    rows: torch.Tensor
    pages: torch.Tensor
    seen: torch.Tensor
    index: torch.Tensor
    keys: torch.Tensor


def paged_attention(
    q: torch.Tensor,
    cache: PagedCache,
    tiles: list[Tile],
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(scale * q.k) @ v of every query row over the keys it sees; a row that sees nothing is 0.

    Args:
        q: [T, H, d]. tiles: every token's row in exactly one of them.
        sinks: [H] logits of a key without a value, for the softmax's sum. slopes: float32 [H] of ALiBi.
    Returns: [T, H, dv] in q's dtype; scores, softmax and sums are float32.
    """
    out = torch.empty((*q.shape[:2], cache["v"].shape[-1]), dtype=q.dtype, device=q.device)
    for tile in tiles:
        out[tile.rows] = _attend(q[tile.rows], cache, tile, scale, softcap, sinks, slopes).to(q.dtype)
    return out


def _attend(
    q: torch.Tensor,
    cache: PagedCache,
    tile: Tile,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None,
    slopes: torch.Tensor | None,
) -> torch.Tensor:
    """float32 [n * q, H, dv]. Pages may hold NaN where nobody looks, so values are masked as well as scores."""
    n, num_rows, num_keys = tile.seen.shape
    k, v = (cache[name][tile.pages].flatten(1, 2).float() for name in ("k", "v"))  # [n, keys, KV, d]
    num_kv_heads = k.shape[2]
    grouped = q.float().view(n, num_rows, num_kv_heads, -1, k.shape[3])  # [n, q, KV, H/KV, d]
    grouped = grouped.permute(0, 2, 1, 3, 4).flatten(2, 3)  # [n, KV, q*H/KV, d]
    scores = torch.matmul(grouped, k.permute(0, 2, 3, 1)) * scale
    if softcap:
        scores = capped(scores, softcap)
    scores = scores.view(n, num_kv_heads, num_rows, -1, num_keys)
    if slopes is not None:
        distances = (tile.keys[:, None, :] - tile.index[:, :, None]).float()  # [n, q, keys]
        scores = scores + slopes.view(1, num_kv_heads, 1, -1, 1) * distances[:, None, :, None, :]
    scores = scores.masked_fill(~tile.seen[:, None, :, None, :], -torch.inf)
    largest = scores.amax(dim=-1, keepdim=True)
    if sinks is not None:
        sink = sinks.float().view(1, num_kv_heads, 1, -1, 1)
        largest = torch.maximum(largest, sink)
    scores = torch.exp(scores - largest.masked_fill(largest == -torch.inf, 0.0))
    total = scores.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sink - largest)
    probabilities = (scores / total.masked_fill(total == 0.0, 1.0)).flatten(2, 3)  # [n, KV, q*H/KV, keys]
    v = v.masked_fill(~tile.seen.any(dim=1)[:, :, None, None], 0.0)
    out = torch.matmul(probabilities, v.transpose(1, 2)).view(n, num_kv_heads, num_rows, -1, v.shape[3])
    return out.transpose(1, 2).reshape(n * num_rows, -1, v.shape[3])
