"""Attention over a paged KV cache. T tokens, S sequences, H heads, KV kv_heads, d head_dim, B blocks a sequence.

A cache is `{"k": [blocks, block_size, KV, d], "v": [blocks, block_size, KV, dv]}` in the KV dtype; an int8 one has
float32 "k_scale" and "v_scale" [blocks, block_size, KV] as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.reference.elementwise import capped
from quire.reference.kv_quantization import dequantize_vectors, quantize_vectors
from quire.reference.rounding import as_f32, round_to

PagedCache = Mapping[str, np.ndarray]


def cache_write(cache: PagedCache, k: np.ndarray, v: np.ndarray, *, slots: np.ndarray) -> PagedCache:
    """Stores k and v [T, KV, d] at `slots` int32 [T] (block_id * block_size + offset), rounded to the KV dtype.

    int8: quantized, with its scales.

    A slot of -1 is not written. The cache is changed in place and returned.
    """
    resident = slots >= 0
    for name, rows in (("k", k), ("v", v)):
        if f"{name}_scale" in cache:
            quantized, scales = quantize_vectors(rows[resident])
            _slots(cache[name])[slots[resident]] = quantized
            _slots(cache[f"{name}_scale"])[slots[resident]] = scales
        else:
            _slots(cache[name])[slots[resident]] = round_to(rows[resident], cache[name].dtype)
    return cache


def _slots(array: np.ndarray) -> np.ndarray:
    """[blocks, block_size, ...] as [slots, ...]; a view, since caches are contiguous."""
    return array.reshape(-1, *array.shape[2:])


def paged_attention(
    q: np.ndarray,
    cache: PagedCache,
    sinks: np.ndarray | None = None,
    *,
    block_tables: np.ndarray,
    query_start_loc: np.ndarray,
    num_computed: np.ndarray,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    causal: bool = True,
    alibi_slopes: np.ndarray | None = None,
    v_head_dim: int = 0,
) -> np.ndarray:
    """softmax(scale * q.k) @ v of every query row over the keys it sees.

    Row i of sequence s has KV index `num_computed[s] + i`. It sees key j of its sequence if (not causal or
    j <= index) and (window == 0 or j > index - window). Head h reads KV head h // (H / KV). Keys that are not
    seen, and blocks of -1, are never read; a row that sees nothing is 0.

    Args:
        q: [T, H, d]. block_tables: int32 [S, B]. query_start_loc: int32 [S+1]. num_computed: int32 [S].
        softcap: > 0 caps scaled scores before the softmax: cap * tanh(score / cap).
        sinks: [H] logits, taken as they are, of a key without a value: they take part in the softmax's sum only.
        alibi_slopes: float32 [H] (`quire.graph.alibi`); adds slope * (key index - row index) after the softcap.
        v_head_dim: dv where it is not d; 0 = d. The cache's v says it too.
    Returns: [T, H, dv] in q's dtype; scores, softmax and sums are float32.
    Source: arXiv:2309.06180; grouped queries arXiv:2305.13245.
    """
    out = np.zeros((*q.shape[:2], cache["v"].shape[-1]), np.float32)
    q32 = as_f32(q)
    for seq, table in enumerate(block_tables):
        start, end = int(query_start_loc[seq]), int(query_start_loc[seq + 1])
        seq_len = int(num_computed[seq]) + end - start
        for row in range(start, end):
            index = int(num_computed[seq]) + row - start
            first = max(0, index - window + 1) if window else 0
            keys = np.arange(first, index + 1 if causal else seq_len)
            k, v = _gather(cache, table, keys)
            if k.shape[1]:
                bias = None if alibi_slopes is None else _bias(alibi_slopes, keys, index, table, cache["k"].shape[1])
                out[row] = _attend(q32[row], k, v, scale, softcap, sinks, bias)
    return round_to(out, q.dtype)


def _gather(cache: PagedCache, table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 k [KV, n, d] and v [KV, n, dv] of the keys whose blocks are resident."""
    block_size = cache["k"].shape[1]
    blocks = table[keys // block_size]
    resident = blocks >= 0
    where = blocks[resident], keys[resident] % block_size
    k, v = (
        dequantize_vectors(cache[name][where], cache[f"{name}_scale"][where])
        if f"{name}_scale" in cache
        else cache[name][where]
        for name in ("k", "v")
    )
    return as_f32(k.swapaxes(0, 1)), as_f32(v.swapaxes(0, 1))


def _bias(slopes: np.ndarray, keys: np.ndarray, index: int, table: np.ndarray, block_size: int) -> np.ndarray:
    """float32 [H, n] of the keys whose blocks are resident."""
    keys = keys[table[keys // block_size] >= 0]
    return slopes[:, None] * (keys - index).astype(np.float32)


def _attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    softcap: float,
    sinks: np.ndarray | None,
    bias: np.ndarray | None,
) -> np.ndarray:
    """One query row [H, d] over k [KV, n, d], v [KV, n, dv]: float32 [H, dv]."""
    num_heads, num_kv_heads = q.shape[0], k.shape[0]
    grouped = q.reshape(num_kv_heads, num_heads // num_kv_heads, -1)
    scores = np.matmul(grouped, k.swapaxes(1, 2)) * np.float32(scale)  # [KV, H/KV, n]
    if softcap:
        scores = capped(scores, softcap)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    largest = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = as_f32(sinks).reshape(*scores.shape[:2], 1)
        largest = np.maximum(largest, sink)
    scores = np.exp(scores - largest)
    total = scores.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink - largest)
    probabilities = scores / total
    return np.matmul(probabilities, v).reshape(num_heads, -1)
