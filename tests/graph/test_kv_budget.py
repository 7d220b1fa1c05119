from __future__ import annotations

import pytest

from quire.errors import ConfigError
from quire.graph.ir import CacheArray, KVGroupSpec
from quire.graph.kv_arrays import held_arrays
from quire.graph.kv_budget import (
    blocks_needed,
    bytes_per_block,
    fit_kv_blocks,
    kv_bytes_per_token,
    kv_pools,
    most_kv_blocks,
    pool_block_bytes,
)
from quire.graph.shapes import shape_of
from quire.graph.shard import shard

K_AND_V = tuple(CacheArray(name, shape_of("kv_heads", 8)) for name in ("k", "v"))
FIT = {"block_size": 16, "kv_dtype": "float32", "max_model_len": 256, "max_num_seqs": 8}


def gemma3_like(tiny):
    """5 sliding layers for each full one: two pools."""
    types = ["sliding_attention"] * 5 + ["full_attention"]
    return tiny("gemma2", num_hidden_layers=6, sliding_window=32, layer_types=types)


def test_bytes_per_block(tiny) -> None:
    model = tiny("qwen3")  # 3 layers, 2 KV heads of 8, k and v
    group, sizes = model.kv_groups["full"], model.axis_sizes()
    assert bytes_per_block(group, sizes, 16, "bfloat16") == 3 * 2 * 2 * 8 * 16 * 2
    assert bytes_per_block(group, sizes, 16, "float32") == 2 * bytes_per_block(group, sizes, 16, "bfloat16")
    assert bytes_per_block(group, shard(model, 2).axis_sizes(), 16, "float32") == 3 * 2 * 1 * 8 * 16 * 4
    assert kv_bytes_per_token(model, "bfloat16") == 3 * 2 * 2 * 8 * 2
    state = KVGroupSpec("state", 0, (CacheArray("s", shape_of(10), "f32"),), 4, "state")
    assert bytes_per_block(state, {}, 16, "bfloat16") == 4 * 10 * 4


def test_an_int8_cache_counts_its_scales(tiny) -> None:
    model = tiny("qwen3")  # 3 layers, 2 KV heads of 8, k and v
    group, sizes = model.kv_groups["full"], model.axis_sizes()
    assert bytes_per_block(group, sizes, 16, "int8") == 3 * 2 * 2 * (8 + 4) * 16
    assert kv_bytes_per_token(model, "int8") == 3 * 2 * 2 * (8 + 4)
    held = {array.name: array.dtype for array in held_arrays(group, "int8")}
    assert held == {"k": "int8", "k_scale": "float32", "v": "int8", "v_scale": "float32"}


def test_unknown_dtype_is_refused(tiny) -> None:
    with pytest.raises(ConfigError, match="'float7'"):
        bytes_per_block(tiny("qwen3").kv_groups["full"], {"kv_heads": 2}, 16, "float7")


def test_groups_with_equal_arrays_share_a_pool_and_its_bytes(tiny) -> None:
    model = tiny("gemma2")
    assert kv_pools(model) == {"kv": ("sliding", "full")}
    group_bytes = bytes_per_block(model.kv_groups["full"], model.axis_sizes(), 16, "float32")
    assert pool_block_bytes(model, "kv", 16, "float32") == group_bytes


@pytest.mark.parametrize(
    ("window", "num_seqs", "num_tokens", "expected"),
    [(0, 3, 33, 9), (0, 1, 32, 2), (32, 1, 17, 2), (32, 1, 1000, 3 + 4), (32, 4, 1000, 12 + 4), (32, 4, 16, 4)],
)
def test_blocks_needed(window: int, num_seqs: int, num_tokens: int, expected: int) -> None:
    group = KVGroupSpec("sliding" if window else "full", window, K_AND_V, 1, "kv")
    assert blocks_needed(group, num_seqs, num_tokens, 16, 64) == expected


def test_one_pool_gets_all_that_fits_but_the_trash_block(tiny) -> None:
    model = tiny("qwen3")
    block = pool_block_bytes(model, "kv", 16, "float32")
    assert fit_kv_blocks(model, 101 * block - 1, **FIT) == {"kv": 99}
    assert fit_kv_blocks(model, 101 * block, **FIT) == {"kv": 100}


def test_too_little_memory_says_what_would_fit(tiny) -> None:
    model = tiny("qwen3")
    block = pool_block_bytes(model, "kv", 16, "float32")
    assert fit_kv_blocks(model, 17 * block, **FIT) == {"kv": 16}
    with pytest.raises(ConfigError) as caught:
        fit_kv_blocks(model, 11 * block, **FIT)
    text = str(caught.value)
    for part in ("max_model_len=256", "needs 16 KV blocks", "--max-model-len 160", "--memory-utilization", "bfloat16"):
        assert part in text
    with pytest.raises(ConfigError) as caught:
        fit_kv_blocks(model, -5, **FIT)
    assert "--max-model-len" not in str(caught.value)
    assert "0.0 MiB is free" in str(caught.value)


@pytest.mark.parametrize("num_bytes", [130_000, 200_000, 500_000, 2_000_000, 50_000_000])
def test_pools_are_divided_by_need(tiny, num_bytes: int) -> None:
    """Full and sliding pools serve the same sequences, fit together, and hold one of max_model_len."""
    model = gemma3_like(tiny)
    fit = {**FIT, "max_num_batched_tokens": 64}
    blocks = fit_kv_blocks(model, num_bytes, **fit)
    sizes = {pool: pool_block_bytes(model, pool, 16, "float32") for pool in blocks}
    assert set(blocks) == {"sliding", "full"}
    used = sum(count * sizes[pool] for pool, count in blocks.items())
    assert used <= num_bytes - sum(sizes.values())
    assert used > 0.7 * (num_bytes - sum(sizes.values()))
    assert blocks["full"] >= 16
    assert blocks["sliding"] >= 7
    assert blocks["sliding"] <= blocks["full"]


def test_many_short_sequences_do_not_starve_on_sliding_blocks(tiny) -> None:
    """With a long max_model_len, full blocks alone would be worthless: 8 sequences need sliding blocks too."""
    model = gemma3_like(tiny)
    blocks = fit_kv_blocks(
        model,
        1_200_000,
        block_size=16,
        kv_dtype="float32",
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=64,
    )
    assert blocks["sliding"] >= 8 * 3


def test_separate_pools_too_small(tiny) -> None:
    with pytest.raises(ConfigError, match="needs 23 KV blocks"):
        fit_kv_blocks(gemma3_like(tiny), 50_000, **FIT, max_num_batched_tokens=64)


def test_most_blocks_serve_every_sequence_at_its_longest(tiny) -> None:
    limits = {"block_size": 16, "max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    assert most_kv_blocks(tiny("qwen3"), **limits)["kv"] >= 8 * 16
    most = most_kv_blocks(gemma3_like(tiny), **limits)
    assert most["full"] > most["sliding"] >= 8 * 3 + 4
