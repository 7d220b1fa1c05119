"""Mixture of experts as grouped products: rows sorted by expert, one ragged product per weight.

T tokens, D hidden, E experts of this rank, k experts a token, M mlp.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from quire_tpu.plain_ops import activate, f32


def route_experts(
    logits: jax.Array,
    *,
    k: int,
    score: str,
    normalize: bool,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """ids int32 [T, k] of the k best experts, best first, lower id first among equals; weights float32 [T, k]."""
    logits = f32(logits)
    if score == "softmax":
        scores = jax.nn.softmax(logits, axis=-1)
    else:
        assert score == "sigmoid", f"no router score {score}"
        scores = jax.nn.sigmoid(logits)
    weights, ids = lax.top_k(scores, k)
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids.astype(jnp.int32), weights * jnp.float32(scale)


def experts(
    x: jax.Array,
    ids: jax.Array,
    weights: jax.Array,
    w13: jax.Array,
    w2: jax.Array,
    *,
    act: str,
    first: jax.Array | None,
) -> jax.Array:
    """Sum over a token's experts of weight * w2[e] @ (act(w1[e] @ x) * (w3[e] @ x)): [T, D], rounded once.

    Args:
        w13: [E, 2*M, D]. w2: [E, D, M]. first: id of this rank's expert 0 where ranks share experts out; the others'
            rows are left out of every product and give zero.
    """
    num_tokens, k = ids.shape
    num_experts = w13.shape[0]
    local = ids.reshape(-1) - (0 if first is None else first)
    local = jnp.where((local >= 0) & (local < num_experts), local, num_experts)
    order = jnp.argsort(local, stable=True)
    sizes = jnp.bincount(local, length=num_experts + 1)[:num_experts].astype(jnp.int32)
    mine = (local[order] < num_experts)[:, None]
    rows = x[order // k]
    gate, up = jnp.split(jnp.where(mine, _grouped(rows, w13, sizes), 0), 2, axis=-1)
    inner = (activate(gate, act) * up).astype(x.dtype)  # two roundings in bfloat16, so that the product stays narrow
    out = jnp.where(mine, _grouped(inner, w2, sizes), 0) * weights.reshape(-1)[order][:, None]
    back = jnp.zeros((num_tokens * k, out.shape[-1]), jnp.float32).at[order].set(out, unique_indices=True)
    return back.reshape(num_tokens, k, -1).sum(axis=1).astype(x.dtype)


def _grouped(rows: jax.Array, weight: jax.Array, sizes: jax.Array) -> jax.Array:
    """float32 [N, out]: rows [N, in], sorted by group, times the transposed weight [E, out, in] of their group."""
    common = jnp.promote_types(rows.dtype, weight.dtype)
    precision = lax.Precision.HIGHEST if common == jnp.float32 else lax.Precision.DEFAULT
    return lax.ragged_dot(
        rows.astype(common),
        weight.astype(common).swapaxes(1, 2),
        sizes,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
