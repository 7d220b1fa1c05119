"""Ragged paged attention as one Pallas TPU kernel: prefill chunks and decode rows in one grid.

The rows of a step are cut into tiles of `rows_per_tile` rows of one sequence each. A grid step is one tile: pages of
its sequence come from HBM by double-buffered DMA, from the first page that its window sees to the last that its last
row sees, and an online softmax runs over them with the tile's rows x G queries of a KV head as one matrix.

T tokens, S sequences, B blocks a sequence, H heads, KV kv_heads, G = H / KV, d head_dim, N tiles, R rows of a tile,
P pages of a chunk.
Sources: paged attention, arXiv:2309.06180; online softmax, arXiv:1805.02867.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from quire_tpu.attention import MASKED
from quire_tpu.step_state import StackedCache, StepState

_PREFILL_ROWS = 32
_CHUNK_KEYS = 256
_LANES = 128


@dataclass(frozen=True, slots=True)
class _Constants:
    """What the kernel is compiled for."""

    num_kv_heads: int
    block_size: int
    pages: int
    scale: float
    window: int
    softcap: float
    causal: bool

    @property
    def keys(self) -> int:
        """Keys of one chunk of pages."""
        return self.pages * self.block_size


def fits(head_dim: int, block_size: int, kv_dtype: str) -> bool:
    """Whether the compiled kernel takes these: heads of whole lanes, pages of whole tiles."""
    return head_dim % _LANES == 0 and block_size % (16 if kv_dtype == "bfloat16" else 8) == 0


def ragged_paged_attention(
    q: jax.Array,
    cache: StackedCache,
    state: StepState,
    *,
    num_kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """As `quire_tpu.attention.paged_attention`, except that every block that a row sees must be resident.

    Args:
        interpret: run Pallas' TPU interpreter, on any platform.
    """
    num_tokens, num_heads, head_dim = q.shape
    group = num_heads // num_kv_heads
    rows = 1 if num_tokens <= state.num_computed.shape[0] else _PREFILL_ROWS
    tiles = _Tiles.of(state, num_tokens, rows)
    # [N, KV, R * G, d]: one matrix of queries for each tile and KV head
    tiled = q[tiles.tokens].reshape(-1, rows, num_kv_heads, group, head_dim).swapaxes(1, 2)
    tiled = tiled.reshape(-1, num_kv_heads, rows * group, head_dim)
    padded_rows = -(-rows * group // 8) * 8
    tiled = jnp.pad(tiled, ((0, 0), (0, 0), (0, padded_rows - rows * group), (0, 0)))
    constants = _Constants(
        num_kv_heads, state.block_size, max(1, _CHUNK_KEYS // state.block_size), scale, window, softcap, causal
    )
    out = _call(tiled, cache, state, tiles, constants, group, interpret)[:, :, : rows * group]
    out = out.reshape(-1, num_kv_heads, rows, group, head_dim).swapaxes(1, 2)
    out = out.reshape(-1, num_heads, head_dim)  # [N * R, H, d]
    return out[tiles.places].astype(q.dtype)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """How a step's rows are cut into tiles.

    Attributes:
        seq: int32 [N], a tile's sequence. index: int32 [N], KV index of its first row; -1 = a tile without rows.
        tokens: int32 [N, R], the token of each row; padding rows repeat one. places: int32 [T], each token's row.
    """

    seq: jax.Array
    index: jax.Array
    tokens: jax.Array
    places: jax.Array

    @staticmethod
    def of(state: StepState, num_tokens: int, rows: int) -> _Tiles:
        starts, num_seqs = state.query_start_loc, state.num_computed.shape[0]
        ends = jnp.cumsum(-(-(starts[1:] - starts[:-1]) // rows))  # tiles up to and with each sequence
        base = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
        most = num_tokens if rows == 1 else num_tokens // rows + num_seqs
        tile = jnp.arange(most, dtype=jnp.int32)
        seq = jnp.searchsorted(ends, tile, side="right", method="compare_all").astype(jnp.int32)
        spare = seq >= num_seqs  # tiles beyond the last are given to no sequence: they read nothing
        seq = jnp.minimum(seq, num_seqs - 1)
        skipped = (tile - base[seq]) * rows
        index = jnp.where(spare, -1, state.num_computed[seq] + skipped)
        tokens = starts[seq][:, None] + skipped[:, None] + jnp.arange(rows, dtype=jnp.int32)[None, :]
        offset = jnp.arange(num_tokens, dtype=jnp.int32) - starts[state.seq_ids]
        places = (base[state.seq_ids] + offset // rows) * rows + offset % rows
        return _Tiles(seq, index.astype(jnp.int32), jnp.clip(tokens, 0, num_tokens - 1), places)


def _call(
    tiled: jax.Array,
    cache: StackedCache,
    state: StepState,
    tiles: _Tiles,
    constants: _Constants,
    group: int,
    interpret: bool,
) -> jax.Array:
    """float32 [N, KV, R * G, d]."""
    num_tiles, num_kv_heads, matrix_rows, head_dim = tiled.shape
    block = pl.BlockSpec((None, num_kv_heads, matrix_rows, head_dim), lambda i, *_: (i, 0, 0, 0))
    width = cache.arrays["k"].shape[-1]
    buffers = [pltpu.VMEM((2, constants.keys, width), cache.arrays[name].dtype) for name in ("k", "v")]
    table = state.block_tables[cache.group]
    table = jnp.pad(table, ((0, 0), (0, -table.shape[1] % constants.pages)), constant_values=state.trash[cache.group])
    # a padding sequence's rows need no keys; its table is all trash
    seq_lens = jnp.where((table != state.trash[cache.group]).any(axis=1), state.seq_lens, 0)
    layer = jnp.asarray(cache.layer, jnp.int32).reshape(1)
    rows = tiles.tokens.shape[1]
    return pl.pallas_call(
        partial(_kernel, constants, rows, group, table.shape[1]),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=5,
            grid=(num_tiles,),
            in_specs=[block, pl.BlockSpec(memory_space=pl.ANY), pl.BlockSpec(memory_space=pl.ANY)],
            out_specs=block,
            scratch_shapes=[
                *buffers,
                pltpu.SemaphoreType.DMA((2, 2)),
                pltpu.VMEM((num_kv_heads, matrix_rows, _LANES), jnp.float32),
                pltpu.VMEM((num_kv_heads, matrix_rows, _LANES), jnp.float32),
                pltpu.VMEM((num_kv_heads, matrix_rows, head_dim), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(tiled.shape, jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=pltpu.InterpretParams() if interpret else False,
        name="ragged_paged_attention",
    )(
        layer,
        tiles.seq,
        tiles.index,
        seq_lens.astype(jnp.int32),
        table.reshape(-1),
        tiled,
        cache.arrays["k"],
        cache.arrays["v"],
    )


def _kernel(
    c: _Constants,
    rows: int,
    group: int,
    table_width: int,
    layer_ref: Any,
    seq_ref: Any,
    index_ref: Any,
    lens_ref: Any,
    table_ref: Any,
    q_ref: Any,
    k_hbm: Any,
    v_hbm: Any,
    out_ref: Any,
    k_buffer: Any,
    v_buffer: Any,
    semaphores: Any,
    best_ref: Any,
    total_ref: Any,
    sum_ref: Any,
) -> None:
    """One tile. The scalar arguments lie in SMEM; caches stay in HBM."""
    tile = pl.program_id(0)
    seq, index = seq_ref[tile], index_ref[tile]
    seq_len = lens_ref[seq]
    seen = jnp.minimum(seq_len, index + rows) if c.causal else seq_len
    seen = jnp.where(index < 0, 0, seen)
    first = jnp.maximum(index - c.window + 1, 0) // c.keys if c.window else 0
    last = (seen + c.keys - 1) // c.keys

    def copies(chunk: jax.Array, slot: jax.Array) -> list[Any]:
        """The DMAs of one chunk's pages; pages that no row sees are read from the table's padding, or repeated."""
        made = []
        for page in range(c.pages):
            block = table_ref[seq * table_width + chunk * c.pages + page]
            where = pl.ds(page * c.block_size, c.block_size)
            made.append(
                pltpu.make_async_copy(k_hbm.at[layer_ref[0], block], k_buffer.at[slot, where], semaphores.at[slot, 0])
            )
            made.append(
                pltpu.make_async_copy(v_hbm.at[layer_ref[0], block], v_buffer.at[slot, where], semaphores.at[slot, 1])
            )
        return made

    best_ref[...] = jnp.full_like(best_ref, MASKED)
    total_ref[...] = jnp.zeros_like(total_ref)
    sum_ref[...] = jnp.zeros_like(sum_ref)

    @pl.when(first < last)
    def _() -> None:
        for copy in copies(first, first % 2):
            copy.start()

    def body(chunk: jax.Array, _: None) -> None:
        slot = chunk % 2

        @pl.when(chunk + 1 < last)
        def _() -> None:
            for copy in copies(chunk + 1, 1 - slot):
                copy.start()

        for copy in copies(chunk, slot):
            copy.wait()
        _attend(
            c, group, chunk, index, seq_len, q_ref, k_buffer.at[slot], v_buffer.at[slot], best_ref, total_ref, sum_ref
        )

    lax.fori_loop(first, last, body, None)
    for head in range(c.num_kv_heads):
        out_ref[head] = sum_ref[head] / jnp.maximum(total_ref[head][:, :1], 1e-30)


def _attend(
    c: _Constants,
    group: int,
    chunk: jax.Array,
    index: jax.Array,
    seq_len: jax.Array,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    best_ref: Any,
    total_ref: Any,
    sum_ref: Any,
) -> None:
    """One chunk of keys into the running softmax of every KV head."""
    matrix_rows, head_dim = q_ref.shape[1:]
    start = chunk * c.keys
    row = index + lax.broadcasted_iota(jnp.int32, (matrix_rows, c.keys), 0) // group
    key = start + lax.broadcasted_iota(jnp.int32, (matrix_rows, c.keys), 1)
    seen = key < seq_len
    if c.causal:
        seen &= key <= row
    if c.window:
        seen &= key > row - c.window
    # Behind the sequence's end a page holds anything, NaN too, and 0 * NaN is NaN.
    written = (start + lax.broadcasted_iota(jnp.int32, (c.keys, head_dim), 0)) < seq_len
    if c.window:
        written &= (start + lax.broadcasted_iota(jnp.int32, (c.keys, head_dim), 0)) > index - c.window
    for head in range(c.num_kv_heads):
        lanes = slice(head * head_dim, (head + 1) * head_dim)
        k, v, q = k_ref[:, lanes], v_ref[:, lanes], q_ref[head]
        if k.dtype != q.dtype:
            k, q = k.astype(jnp.float32), q.astype(jnp.float32)
        scores = _product(q, k, 1) * c.scale
        if c.softcap:
            scores = c.softcap * jnp.tanh(scores / c.softcap)
        scores = jnp.where(seen, scores, MASKED)
        before = best_ref[head][:, :1]
        best = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - best), 0.0)
        kept = jnp.exp(before - best)
        v = jnp.where(written, v.astype(jnp.float32), 0.0).astype(v.dtype)
        total_ref[head] = total_ref[head] * kept + weights.sum(axis=1, keepdims=True)
        sum_ref[head] = sum_ref[head] * kept + _product(weights.astype(v.dtype), v, 0)
        best_ref[head] = jnp.broadcast_to(best, best_ref.shape[1:])


def _product(a: jax.Array, b: jax.Array, contract: int) -> jax.Array:
    """a [m, n] times b, over b's dimension `contract`, in float32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        a, b, (((1,), (contract,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
