"""The cache ops in plain XLA: writing rows to slots, and attention by online softmax over chunks of blocks.

T tokens, S sequences, H heads, KV kv_heads, G = H / KV, d head_dim, J keys of a chunk.
Source of the online softmax: arXiv:1805.02867; paged attention: arXiv:2309.06180.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from quire_tpu.plain_ops import capped, matmul
from quire_tpu.step_state import StackedCache, StepState

_CHUNK_KEYS = 128
MASKED = -1e30
"""The score of a key that is not seen: finite, so that rows which see nothing stay finite too."""


def cache_write(cache: StackedCache, k: jax.Array, v: jax.Array, state: StepState) -> StackedCache:
    """The cache with k and v [T, KV, d] at the step's slots, rounded to the KV dtype."""
    blocks, offsets = state.slots(cache.group)
    arrays = dict(cache.arrays)
    for name, rows in (("k", k), ("v", v)):
        stored = rows.reshape(rows.shape[0], -1).astype(arrays[name].dtype)
        arrays[name] = arrays[name].at[cache.layer, blocks, offsets].set(stored)
    return StackedCache(cache.group, cache.layer, arrays)


def paged_attention(
    q: jax.Array,
    cache: StackedCache,
    state: StepState,
    *,
    num_kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
    causal: bool,
    sinks: jax.Array | None = None,
    alibi_slopes: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale * q.k) @ v over the keys each row sees: q [T, H, d] to [T, H, dv]; a row without keys is 0.

    What is masked may be NaN: scores are replaced, and masked values are zeroed before the product.

    Args:
        sinks: [H] logits of a key without a value, for the softmax's sum. alibi_slopes: float32 [H].
    """
    num_tokens, num_heads, head_dim = q.shape
    pages = max(1, _CHUNK_KEYS // state.block_size)
    keys = pages * state.block_size
    trash, table = state.trash[cache.group], state.block_tables[cache.group]
    table = jnp.pad(table, ((0, 0), (0, -table.shape[1] % pages)), constant_values=trash)
    grouped = q.reshape(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    index = state.kv_index[:, None]

    def chunk(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        best, total, out = carry
        blocks = lax.dynamic_slice_in_dim(table, number * pages, pages, axis=1)  # [S, pages]
        k, v = (
            cache.arrays[name][cache.layer, blocks].reshape(blocks.shape[0], keys, num_kv_heads, -1)
            for name in ("k", "v")
        )
        key = number * keys + jnp.arange(keys, dtype=jnp.int32)[None, :]  # [1, J]
        resident = jnp.repeat(blocks != trash, state.block_size, axis=1)[state.seq_ids]
        seen = resident & ((key <= index) if causal else (key < state.seq_lens[state.seq_ids][:, None]))
        if window:
            seen &= key > index - window
        scores = matmul(grouped, k[state.seq_ids], (((3,), (3,)), ((0, 1), (0, 2)))) * jnp.float32(scale)
        if softcap:
            scores = capped(scores, softcap)
        if alibi_slopes is not None:
            distances = (key - index).astype(jnp.float32)[:, None, None, :]  # [T, 1, 1, J]
            scores = scores + alibi_slopes.reshape(1, num_kv_heads, -1, 1) * distances
        scores = jnp.where(seen[:, None, None, :], scores, MASKED)  # [T, KV, G, J]
        higher = jnp.maximum(best, scores.max(axis=-1))
        weights = jnp.where(seen[:, None, None, :], jnp.exp(scores - higher[..., None]), 0)
        kept = jnp.exp(best - higher)
        values = jnp.where(seen[:, :, None, None], v[state.seq_ids].astype(jnp.float32), 0)  # [T, J, KV, dv]
        out = out * kept[..., None] + matmul(weights, values, (((3,), (1,)), ((0, 1), (0, 2))))
        return higher, total * kept + weights.sum(axis=-1), out

    value_dim = cache.arrays["v"].shape[-1] // num_kv_heads
    rows = grouped.shape[:3]
    if sinks is None:
        best, total = jnp.full(rows, MASKED, jnp.float32), jnp.zeros(rows, jnp.float32)
    else:  # a key that came before all others and has no value
        best = jnp.broadcast_to(sinks.astype(jnp.float32).reshape(1, num_kv_heads, -1), rows)
        total = jnp.ones(rows, jnp.float32)
    start = (best, total, jnp.zeros((*rows, value_dim), jnp.float32))
    longest = jnp.max(jnp.where((table != trash).any(axis=1), state.seq_lens, 0))
    first = jnp.maximum(jnp.min(state.num_computed) - window + 1, 0) // keys if window else 0
    _, total, out = lax.fori_loop(first, -(-longest // keys), chunk, start)
    out = out / jnp.maximum(total, jnp.float32(1e-30))[..., None]
    return out.reshape(num_tokens, num_heads, value_dim).astype(q.dtype)
