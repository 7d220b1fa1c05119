"""Paged attention and cache writes against torch over plain, unpaged sequences."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.ops.cache_write import cache_write
from quire.ops.kv_quantization import dequantize_vectors, quantize_vectors
from quire.ops.paged_attention import paged_attention

H, KV, D = 4, 2, 8


@dataclass
class Paged:
    """Sequences scattered over shuffled blocks; whatever no sequence owns is NaN."""

    keys: list[np.ndarray]
    values: list[np.ndarray]
    cache: dict[str, np.ndarray]
    tables: np.ndarray

    def kwargs(self, query_lens: list[int]) -> dict[str, np.ndarray]:
        return {
            "block_tables": self.tables,
            "query_start_loc": np.cumsum([0, *query_lens]).astype(np.int32),
            "num_computed": np.array([len(k) - n for k, n in zip(self.keys, query_lens, strict=True)], np.int32),
        }


def _paged(seq_lens: list[int], block_size: int, rng: np.random.Generator, dtype: type = np.float32) -> Paged:
    per_seq = max(-(-n // block_size) for n in seq_lens)
    num_blocks = per_seq * len(seq_lens) + 3
    ids = iter(rng.permutation(num_blocks - 1).tolist())  # the last block stays NaN: index -1 falls into it
    cache = {name: np.full((num_blocks, block_size, KV, D), np.nan, dtype) for name in "kv"}
    tables = np.full((len(seq_lens), per_seq + 1), -1, np.int32)
    keys, values = [], []
    for seq, n in enumerate(seq_lens):
        tables[seq, : -(-n // block_size)] = [next(ids) for _ in range(-(-n // block_size))]
        k, v = rng.standard_normal((2, n, KV, D)).astype(dtype)
        index = np.arange(n)
        slots = (tables[seq, index // block_size] * block_size + index % block_size).astype(np.int32)
        cache_write(cache, k, v, slots=slots)
        keys.append(k)
        values.append(v)
    return Paged(keys, values, cache, tables)


def _dense(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int, softcap: float, causal: bool
) -> np.ndarray:
    """Masked attention of the last len(q) positions in torch float64, KV heads repeated."""
    q_, k_, v_ = (torch.from_numpy(a.astype(np.float64)).transpose(0, 1) for a in (q, k, v))
    k_, v_ = k_.repeat_interleave(H // KV, 0), v_.repeat_interleave(H // KV, 0)
    scores = q_ @ k_.transpose(1, 2) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    rows = torch.arange(len(k) - len(q), len(k))[:, None]
    columns = torch.arange(len(k))[None, :]
    seen = torch.ones(len(q), len(k), dtype=torch.bool)
    if causal:
        seen &= columns <= rows
    if window:
        seen &= columns > rows - window
    return (torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ v_).transpose(0, 1).numpy()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_quantized_vectors_are_within_half_a_step(elements: list[float]) -> None:
    x = np.array([elements, [-e for e in elements]], np.float32)
    q, scales = quantize_vectors(x)
    assert q.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.abs(q.astype(int)).max() <= 127
    np.testing.assert_array_equal(q[0], -q[1])
    error = np.abs(dequantize_vectors(q, scales) - x)
    assert (error <= 0.5001 * scales[:, None] + 1e-44).all()


def test_a_vector_that_is_not_finite_has_a_nan_scale_and_zeros() -> None:
    q, scales = quantize_vectors(np.array([[1, np.nan], [np.inf, 2], [-np.inf, np.nan], [0, 0]], np.float32))
    assert np.isnan(scales[:3]).all()
    assert scales[3] == 0
    assert not q.any()


def test_an_int8_cache_is_attended_as_it_is_held() -> None:
    rng = np.random.default_rng(4)
    k, v = rng.standard_normal((2, 20, KV, D)).astype(np.float32)
    cache = {name: np.full((5, 8, KV, D), -128, np.int8) for name in "kv"}
    cache |= {f"{name}_scale": np.full((5, 8, KV), np.nan, np.float32) for name in "kv"}
    table = np.array([[3, 0, 4]], np.int32)
    index = np.arange(20)
    cache_write(cache, k, v, slots=(table[0, index // 8] * 8 + index % 8).astype(np.int32))
    q = rng.standard_normal((20, H, D)).astype(np.float32)
    found = paged_attention(
        q,
        cache,
        block_tables=table,
        query_start_loc=np.array([0, 20], np.int32),
        num_computed=np.zeros(1, np.int32),
        scale=0.4,
    )
    held_k, held_v = (dequantize_vectors(*quantize_vectors(x)) for x in (k, v))
    np.testing.assert_allclose(found, _dense(q, held_k, held_v, 0.4, 0, 0.0, True), rtol=1e-4, atol=1e-5)
    assert np.abs(found - _dense(q, k, v, 0.4, 0, 0.0, True)).max() < 0.05


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=4).filter(
        lambda pairs: all(a + b > 0 for a, b in pairs)
    ),
    block_size=st.sampled_from([1, 3, 4, 16]),
    window=st.sampled_from([0, 1, 5, 100]),
    softcap=st.sampled_from([0.0, 2.0]),
    causal=st.booleans(),
    seed=st.integers(0, 100),
)
def test_paged_attention_is_dense_attention(
    lens: list[tuple[int, int]], block_size: int, window: int, softcap: float, causal: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    paged = _paged([a + b for a, b in lens], block_size, rng)
    query_lens = [b for _, b in lens]
    q = rng.standard_normal((sum(query_lens), H, D)).astype(np.float32)
    attrs = {"scale": 0.3, "window": window, "softcap": softcap, "causal": causal}
    out = paged_attention(q, paged.cache, **paged.kwargs(query_lens), **attrs)
    start = 0
    for k, v, n in zip(paged.keys, paged.values, query_lens, strict=True):
        np.testing.assert_allclose(out[start : start + n], _dense(q[start : start + n], k, v, **attrs), atol=2e-5)
        start += n


def test_blocks_that_left_the_window_are_never_read() -> None:
    rng = np.random.default_rng(1)
    paged = _paged([17], 4, rng)
    q = rng.standard_normal((2, H, D)).astype(np.float32)
    whole = paged_attention(q, paged.cache, **paged.kwargs([2]), scale=0.3, window=5)
    for array in paged.cache.values():
        array[paged.tables[0, :2]] = np.nan
    paged.tables[0, :2] = -1
    freed = paged_attention(q, paged.cache, **paged.kwargs([2]), scale=0.3, window=5)
    np.testing.assert_array_equal(freed, whole)
    assert np.isfinite(freed).all()


def test_a_block_of_minus_one_inside_the_window_counts_as_not_seen() -> None:
    rng = np.random.default_rng(2)
    paged = _paged([8], 4, rng)
    q = rng.standard_normal((1, H, D)).astype(np.float32)
    paged.tables[0, 0] = -1
    out = paged_attention(q, paged.cache, **paged.kwargs([1]), scale=0.3)
    np.testing.assert_allclose(out, _dense(q, paged.keys[0][4:], paged.values[0][4:], 0.3, 0, 0.0, True), atol=1e-5)


def test_a_row_that_sees_nothing_is_zero() -> None:
    cache = {name: np.full((2, 4, KV, D), np.nan, np.float32) for name in "kv"}
    out = paged_attention(
        np.ones((1, H, D), np.float32),
        cache,
        block_tables=np.array([[-1]], np.int32),
        query_start_loc=np.array([0, 1]),
        num_computed=np.array([0]),
        scale=1.0,
    )
    np.testing.assert_array_equal(out, 0)


def test_cache_write_skips_minus_one_and_rounds_to_the_cache() -> None:
    cache = {name: np.full((2, 2, KV, D), np.nan, ml_dtypes.bfloat16) for name in "kv"}
    k = np.full((3, KV, D), 1.001, np.float32)
    assert cache_write(cache, k, k * 2, slots=np.array([2, -1, 0], np.int32)) is cache
    flat = {name: array.reshape(4, KV, D).astype(np.float32) for name, array in cache.items()}
    np.testing.assert_array_equal(flat["k"][[0, 2]], 1.0)
    np.testing.assert_array_equal(flat["v"][[0, 2]], 2.0)
    assert np.isnan(flat["k"][[1, 3]]).all()


def test_half_precision_reads_are_those_of_the_rounded_cache() -> None:
    rng = np.random.default_rng(3)
    paged = _paged([9], 4, rng, ml_dtypes.bfloat16)
    q = rng.standard_normal((3, H, D)).astype(np.float16)
    out = paged_attention(q, paged.cache, **paged.kwargs([3]), scale=0.3)
    assert out.dtype == np.float16
    expected = _dense(q, paged.keys[0], paged.values[0], 0.3, 0, 0.0, True)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=2e-3)


@pytest.mark.parametrize("window", [0, 5])
def test_sinks_and_slopes_are_a_key_without_value_and_a_bias(window: int) -> None:
    """Against torch: a column of sink logits is put before the scores and dropped behind the softmax."""
    rng = np.random.default_rng(3)
    paged = _paged([13], 4, rng)
    q = rng.standard_normal((13, H, D)).astype(np.float32)
    sinks = rng.standard_normal(H).astype(np.float32)
    slopes = np.array([0.5, 0.25, 0.125, 0.0625], np.float32)
    found = paged_attention(q, paged.cache, sinks, scale=0.3, window=window, alibi_slopes=slopes, **paged.kwargs([13]))
    q_, k_, v_ = (torch.from_numpy(a.astype(np.float64)).transpose(0, 1) for a in (q, paged.keys[0], paged.values[0]))
    k_, v_ = k_.repeat_interleave(H // KV, 0), v_.repeat_interleave(H // KV, 0)
    distances = torch.arange(13)[None, :] - torch.arange(13)[:, None]
    scores = q_ @ k_.transpose(1, 2) * 0.3 + torch.from_numpy(slopes).double()[:, None, None] * distances
    seen = distances <= 0
    if window:
        seen &= distances > -window
    scores = torch.cat(
        [torch.from_numpy(sinks).double()[:, None, None].expand(H, 13, 1), scores.masked_fill(~seen, -torch.inf)],
        dim=-1,
    )
    expected = (torch.softmax(scores, -1)[..., 1:] @ v_).transpose(0, 1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_values_may_be_of_another_width_than_keys() -> None:
    """Twice as wide, with every element there twice: so is the result."""
    rng = np.random.default_rng(9)
    paged = _paged([9, 20], 4, rng)
    wide = {"k": paged.cache["k"], "v": np.repeat(paged.cache["v"], 2, axis=-1)}
    q = rng.standard_normal((5, H, D)).astype(np.float32)
    kwargs = paged.kwargs([2, 3])
    found = paged_attention(q, wide, scale=0.3, v_head_dim=2 * D, **kwargs)
    assert found.shape == (5, H, 2 * D)
    np.testing.assert_allclose(
        found, np.repeat(paged_attention(q, paged.cache, scale=0.3, **kwargs), 2, axis=-1), rtol=1e-6, atol=1e-6
    )
