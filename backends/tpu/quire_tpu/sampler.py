"""Sampling inside the compiled step: greedy, temperature, min_p, top_k, top_p; the rest is the core's on the host.

The steps are the core's in its order. Noise agrees with numpy's to the last bits of a logarithm and top_p sums in
float32, so a token could differ from the core's only where two totals, or a sum and its limit, differ by less.

Shapes here: L rows of logits, V vocabulary, R sampled rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from quire.device.device_sampling import NOT_FINITE
from quire.sampling.batch import NO_TOKEN, SamplingBatch
from quire_tpu.philox import gumbel

Mode = Literal["host", "greedy", "draw", "filter"]
"""How a step's rows are sampled: by the host; or compiled: all greedy, with noise, with noise and filters."""


def mode_of(batch: SamplingBatch | None) -> Mode:
    """The least mode that covers a batch whose features are all done on the device."""
    if batch is None or not bool((batch.temperature > 0).any()):
        return "greedy"
    filtered = any(field is not None for field in (batch.top_k, batch.top_p, batch.min_p))
    return "filter" if filtered else "draw"


def sample(logits: jax.Array, arrays: Mapping[str, jax.Array], mode: Mode) -> jax.Array:
    """One token for each row, int32 [R]; NO_TOKEN where nothing is left, NOT_FINITE where logits are broken.

    Args:
        logits: float32 [L, V]. arrays: the sampling arrays of `step_inputs.unpack`, [R] each.
    """
    rows = logits[arrays["rows"]]
    largest = rows.max(axis=1)
    tokens = rows.argmax(axis=1)
    if mode != "greedy":
        drawn = _drawn(rows, largest, arrays, mode)
        tokens = jnp.where(arrays["temperature"] > 0, drawn, tokens)
    tokens = jnp.where(largest == -jnp.inf, NO_TOKEN, tokens)
    broken = jnp.isnan(largest) | (largest == jnp.inf)
    return jnp.where(broken, NOT_FINITE, tokens).astype(jnp.int32)


def _drawn(rows: jax.Array, largest: jax.Array, arrays: Mapping[str, jax.Array], mode: Mode) -> jax.Array:
    temperature = jnp.where(arrays["temperature"] > 0, arrays["temperature"], 1)
    scores = (rows - largest[:, None]) / temperature[:, None]
    if mode == "filter":
        scores = jnp.where(scores >= _limits(scores, arrays)[:, None], scores, -jnp.inf)
    keys = (arrays["seed_low"], arrays["seed_high"])
    return (scores + gumbel(keys, arrays["sequence_index"], arrays["position"], scores.shape[1])).argmax(axis=1)


def _limits(scores: jax.Array, arrays: Mapping[str, jax.Array]) -> jax.Array:
    """float32 [R]: the least score that survives; ties with it survive too."""
    vocab_size = scores.shape[1]
    descending = -jnp.sort(-scores, axis=1)
    top_k, top_p = arrays["top_k"], arrays["top_p"]
    limited = (top_k > 0) & (top_k < vocab_size)
    kth = jnp.take_along_axis(descending, jnp.where(limited, top_k - 1, 0)[:, None], axis=1)[:, 0]
    limit = jnp.maximum(arrays["min_score"], jnp.where(limited, kth, -jnp.inf))
    kept = descending >= limit[:, None]
    mass = jnp.cumsum(jnp.where(kept, jnp.exp(descending), 0), axis=1)
    needed = top_p * mass[:, -1]
    last = jnp.minimum((mass < needed[:, None]).sum(axis=1), kept.sum(axis=1) - 1)
    cut = jnp.take_along_axis(descending, jnp.maximum(last, 0)[:, None], axis=1)[:, 0]
    return jnp.where(top_p < 1, jnp.maximum(limit, cut), limit)
