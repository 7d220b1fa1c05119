"""Unified paged attention: one kernel for prefill, chunks of prefill and decode, with the softmax computed online.

A program takes a tile of query rows of one sequence and all query heads that share one KV head, so that each key is
read once for the whole group. It walks the keys that its rows see, page ids gathered key by key, and never loads
one that no row of the tile sees: pages may hold NaN wherever nothing was written.
Source: online softmax arXiv:2205.14135, paged caches arXiv:2309.06180, grouped queries arXiv:2305.13245.

T tokens, S sequences, H heads, KV kv_heads, G = H / KV, d head_dim, N tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """How a kernel is cut: query rows (times group) and keys of one program's step, warps, pipeline stages."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def launch_config(head_dim: int, group: int, itemsize: int, *, decode: bool, warp_size: int) -> LaunchConfig:
    """Sizes that fit the smallest of the targets: 64 KiB of shared memory on AMD's CDNA 2 and 3; without spills.

    Args:
        group: query heads for each KV head. itemsize: bytes of an element. decode: every sequence has one query row.
        warp_size: 32 on NVIDIA, 64 on AMD's CDNA, where half as many warps share the registers.
    """
    wide = triton.next_power_of_2(head_dim) * itemsize
    block_n = 64 if wide <= 256 else 32 if wide <= 512 else 16
    smallest = max(16, triton.next_power_of_2(group))
    block_m = smallest if decode else max(smallest, 64 if wide <= 512 else 32)
    return LaunchConfig(block_m, block_n, 8 if wide >= 256 and not decode and warp_size == 32 else 4, 2)


@triton.jit
def paged_attention_kernel(  # type: ignore[no-untyped-def]
    out,
    q,
    k_cache,
    v_cache,
    block_tables,
    query_start_loc,
    num_computed,
    tile_seqs,
    tile_rows,
    sinks,
    alibi_slopes,
    scale,
    softcap,
    window,
    stride_out_token,
    stride_out_head,
    stride_q_token,
    stride_q_head,
    stride_k_block,
    stride_k_slot,
    stride_k_head,
    stride_v_block,
    stride_v_slot,
    stride_v_head,
    stride_table,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_DIM_V: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_V: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One tile of one KV head. Grid: (N tiles, KV).

    Args:
        out: [T, H, dv]. q: [T, H, d]. k_cache, v_cache: [blocks, PAGE, KV, d]; the last dimension is contiguous.
        block_tables: int32 [S, B], -1 = not resident. query_start_loc: int32 [S+1]. num_computed: int32 [S].
        tile_seqs, tile_rows: int32 [N], the tile's sequence, and its first query row in that sequence.
        sinks: [H] logits of a key without a value, read where HAS_SINKS. alibi_slopes: float32 [H], where HAS_ALIBI.
        WIDEN: operands are widened to float32 first (where 16-bit products are not to be had).
    """
    seq = tl.load(tile_seqs + tl.program_id(0))
    first_row = tl.load(tile_rows + tl.program_id(0))
    kv_head = tl.program_id(1)
    first_token = tl.load(query_start_loc + seq)
    query_len = tl.load(query_start_loc + seq + 1) - first_token
    computed = tl.load(num_computed + seq)

    lane = tl.arange(0, BLOCK_M)
    row = first_row + lane // GROUP  # of the sequence's query rows
    head = kv_head * GROUP + lane % GROUP
    used = (lane < (BLOCK_M // GROUP) * GROUP) & (row < query_len)
    index = computed + row  # the row's place among the sequence's keys
    token = (first_token + row).to(tl.int64)
    dims, dims_v = tl.arange(0, PADDED), tl.arange(0, PADDED_V)
    queries = tl.load(
        q + token[:, None] * stride_q_token + head[:, None] * stride_q_head + dims[None, :],
        mask=used[:, None] & (dims[None, :] < HEAD_DIM),
        other=0.0,
    )
    if WIDEN:
        queries = queries.to(tl.float32)

    last_row = tl.minimum(first_row + BLOCK_M // GROUP, query_len) - 1
    end = computed + query_len
    if CAUSAL:
        end = computed + last_row + 1
    start = 0
    if HAS_WINDOW:
        start = tl.maximum(computed + first_row - window + 1, 0)

    if HAS_ALIBI:
        slopes = tl.load(alibi_slopes + head, mask=used, other=0.0)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if HAS_SINKS:  # a key that came before all others and has no value
        largest = tl.load(sinks + head, mask=used, other=0.0).to(tl.float32)
        total += 1.0
    acc = tl.zeros([BLOCK_M, PADDED_V], tl.float32)
    for block_start in range(start // BLOCK_N * BLOCK_N, end, BLOCK_N):
        key = block_start + tl.arange(0, BLOCK_N)
        inside = (key >= start) & (key < end)
        page = tl.load(block_tables + seq.to(tl.int64) * stride_table + key // PAGE, mask=inside, other=-1)
        inside = inside & (page >= 0)
        page, slot = page.to(tl.int64), key % PAGE
        keys = tl.load(
            k_cache
            + page[None, :] * stride_k_block
            + slot[None, :] * stride_k_slot
            + kv_head * stride_k_head
            + dims[:, None],
            mask=inside[None, :] & (dims[:, None] < HEAD_DIM),
            other=0.0,
        )
        values = tl.load(
            v_cache
            + page[:, None] * stride_v_block
            + slot[:, None] * stride_v_slot
            + kv_head * stride_v_head
            + dims_v[None, :],
            mask=inside[:, None] & (dims_v[None, :] < HEAD_DIM_V),
            other=0.0,
        )
        if WIDEN:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
        else:
            keys, values = keys.to(queries.dtype), values.to(queries.dtype)

        scores = tl.dot(queries, keys, input_precision="ieee") * scale
        if HAS_SOFTCAP:  # cap * tanh(x / cap), and tanh(y) = 2 / (1 + exp(-2y)) - 1
            scores = softcap * (2.0 / (1.0 + tl.exp(scores * (-2.0 / softcap))) - 1.0)
        if HAS_ALIBI:
            scores += slopes[:, None] * (key[None, :] - index[:, None]).to(tl.float32)
        seen = inside[None, :] & used[:, None]
        if CAUSAL:
            seen = seen & (key[None, :] <= index[:, None])
        if HAS_WINDOW:
            seen = seen & (key[None, :] > index[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # a row that has seen nothing yet
        weights = tl.exp(scores - shift[:, None])
        fade = tl.exp(largest - shift)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        largest = new_largest

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + token[:, None] * stride_out_token + head[:, None] * stride_out_head + dims_v[None, :],
        acc.to(out.dtype.element_ty),
        mask=used[:, None] & (dims_v[None, :] < HEAD_DIM_V),
    )
