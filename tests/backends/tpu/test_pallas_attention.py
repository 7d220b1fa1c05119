"""The Pallas kernel in Pallas' TPU interpreter against the reference: mixed steps, windows, softcap, poisoned pages."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pytest

from quire.ops.paged_attention import paged_attention as reference_attention
from quire_tpu.attention import paged_attention
from quire_tpu.kernels import ragged_paged_attention as kernel_module
from quire_tpu.kernels.ragged_paged_attention import ragged_paged_attention
from quire_tpu.step_state import StackedCache, StepState
from tests.backends.tpu.test_steps import Driver, loaded, logits_of_steps, make_plan, reference_driver

BLOCK, NUM_BLOCKS, WIDTH, KV, HEAD_DIM = 8, 40, 8, 2, 16
LENGTHS = {"mixed": ((6, 3), (1, 21), (0, 0), (3, 0)), "decode": ((1, 22), (1, 0), (1, 15))}
"""Case -> (rows of the step, tokens before it) of each sequence."""


def case(name: str, heads: int, window: int) -> tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """q, the cache with NaN wherever no key may be read, and the step's arrays."""
    rng = np.random.default_rng(len(name) + heads + window)
    counts, before = (np.array(column, np.int32) for column in zip(*LENGTHS[name], strict=True))
    free = rng.permutation(NUM_BLOCKS).tolist()
    table = np.full((len(counts), WIDTH), -1, np.int32)
    cache = {which: np.full((NUM_BLOCKS + 1, BLOCK, KV, HEAD_DIM), np.nan, np.float32) for which in "kv"}
    for seq, (count, computed) in enumerate(zip(counts, before, strict=True)):
        first = max(0, computed - window + 1) if window else 0
        for key in range(first, computed + count):
            if table[seq, key // BLOCK] < 0:
                table[seq, key // BLOCK] = free.pop()
            for array in cache.values():
                array[table[seq, key // BLOCK], key % BLOCK] = rng.standard_normal((KV, HEAD_DIM))
    q = rng.standard_normal((int(counts.sum()), heads, HEAD_DIM)).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return q, cache, {"block_tables": table, "query_start_loc": starts, "num_computed": before}


def on_jax(
    function: object, q: np.ndarray, cache: Mapping[str, np.ndarray], step: Mapping[str, np.ndarray], **attrs: object
) -> np.ndarray:
    arrays = {
        "token_ids": jnp.zeros(len(q), jnp.int32),
        "query_start_loc": jnp.asarray(step["query_start_loc"]),
        "num_computed": jnp.asarray(step["num_computed"]),
        "full.block_tables": jnp.asarray(step["block_tables"]),
    }
    state = StepState.derive(arrays, {"full": NUM_BLOCKS}, BLOCK, {})
    other = {name: np.full_like(array, np.nan) for name, array in cache.items()}
    stacked = {
        name: jnp.asarray(np.stack([other[name], array])).reshape(2, NUM_BLOCKS + 1, BLOCK, -1)
        for name, array in cache.items()
    }
    return np.asarray(
        function(
            jnp.asarray(q),
            StackedCache("full", 1, stacked),
            state,  # type: ignore[operator]
            num_kv_heads=KV,
            **attrs,
        )
    )


@pytest.mark.parametrize(
    ("name", "heads", "window", "softcap", "causal"),
    [("mixed", 4, 0, 0.0, True), ("mixed", 2, 11, 4.0, True), ("mixed", 2, 0, 0.0, False), ("decode", 6, 9, 0.0, True)],
)
def test_attention_is_the_references(
    monkeypatch: pytest.MonkeyPatch, name: str, heads: int, window: int, softcap: float, causal: bool
) -> None:
    monkeypatch.setattr(kernel_module, "_CHUNK_KEYS", 16)  # several chunks, and both buffers, in a short sequence
    monkeypatch.setattr(kernel_module, "_PREFILL_ROWS", 4)
    q, cache, step = case(name, heads, window)
    attrs = {"scale": 0.3, "window": window, "softcap": softcap, "causal": causal}
    expected = reference_attention(q, cache, **step, **attrs)  # type: ignore[arg-type]
    np.testing.assert_allclose(on_jax(paged_attention, q, cache, step, **attrs), expected, atol=2e-6)
    kernel = on_jax(ragged_paged_attention, q, cache, step, **attrs, interpret=True)
    np.testing.assert_allclose(kernel, expected, atol=2e-6)


def test_whole_steps_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On stacked caches, with padding tokens, padding sequences and a sliding layer."""
    monkeypatch.setattr(kernel_module, "_CHUNK_KEYS", 8)
    executor = loaded(make_plan(max_logits_rows=32, max_num_batched_tokens=16, max_num_seqs=3), attention="pallas")
    for logits, expected in zip(logits_of_steps(Driver(executor)), logits_of_steps(reference_driver()), strict=True):
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
