"""`Attention` by the Triton kernel: decode and longer queries of a step are two launches with tiles of their own."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch
import triton

from quire.device.batch import StepBatch
from quire.device.contract import CacheHandle, StepContext
from quire_torch.kernels.paged_attention import launch_config, paged_attention_kernel
from quire_torch.step_memo import StepMemo

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # its products of bfloat16 are wrong, so operands are widened
_WARP_SIZE = 64 if torch.version.hip else 32

Tiles = tuple[torch.Tensor, torch.Tensor]


class TritonAttention:
    """Runs on CUDA and ROCm devices, and on CPU tensors under TRITON_INTERPRET=1."""

    def __init__(self, put: Callable[[np.ndarray], torch.Tensor], memo: StepMemo) -> None:
        self._put, self._memo = put, memo

    def __call__(
        self,
        context: StepContext,
        q: torch.Tensor,
        cache: CacheHandle,
        *,
        scale: float,
        window: int,
        softcap: float,
        causal: bool,
        sinks: torch.Tensor | None = None,
        slopes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Every row's attention over the keys it sees, [T, H, dv]."""
        k, v = cache.arrays["k"], cache.arrays["v"]
        out = torch.empty((*q.shape[:2], v.shape[3]), dtype=q.dtype, device=q.device)
        q = q if q.stride(2) == 1 else q.contiguous()
        group = q.shape[1] // k.shape[2]
        unused = num_computed = context.device["num_computed"]
        tables = context.device[f"{cache.group}.block_tables"]
        for decode in (True, False):
            config = launch_config(
                max(q.shape[2], v.shape[3]), group, q.element_size(), decode=decode, warp_size=_WARP_SIZE
            )
            tiles = self._tiles(context, config.block_m // group, decode)
            if len(tiles[0]) == 0:
                continue
            paged_attention_kernel[(len(tiles[0]), k.shape[2])](
                out,
                q,
                k,
                v,
                tables,
                context.device["query_start_loc"],
                num_computed,
                *tiles,
                unused if sinks is None else sinks,
                unused if slopes is None else slopes,
                scale,
                softcap,
                window,
                out.stride(0),
                out.stride(1),
                q.stride(0),
                q.stride(1),
                *k.stride()[:3],
                *v.stride()[:3],
                tables.stride(0),
                GROUP=group,
                HEAD_DIM=q.shape[2],
                HEAD_DIM_V=v.shape[3],
                PADDED=max(16, triton.next_power_of_2(q.shape[2])),
                PADDED_V=max(16, triton.next_power_of_2(v.shape[3])),
                PAGE=context.block_size,
                BLOCK_M=config.block_m,
                BLOCK_N=config.block_n,
                CAUSAL=causal,
                HAS_WINDOW=window > 0,
                HAS_SOFTCAP=softcap > 0,
                HAS_SINKS=sinks is not None,
                HAS_ALIBI=slopes is not None,
                WIDEN=_INTERPRETED,
                num_warps=config.num_warps,
                num_stages=config.num_stages,
            )
        return out

    def _tiles(self, context: StepContext, rows_per_tile: int, decode: bool) -> Tiles:
        def make() -> Tiles:
            seqs, rows = query_tiles(context.batch, rows_per_tile, decode=decode)
            return self._put(seqs), self._put(rows)

        return self._memo.get(context, ("query_tiles", rows_per_tile, decode), make)


def query_tiles(batch: StepBatch, rows_per_tile: int, *, decode: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sequence and first query row of each tile, int32 [N] both: of sequences with one query row, or of the others."""
    query_lens = np.diff(batch.query_start_loc)
    chosen = np.flatnonzero(query_lens == 1 if decode else query_lens > 1)
    counts = -(-query_lens[chosen] // rows_per_tile)
    seqs = np.repeat(chosen, counts)
    number = np.arange(len(seqs)) - np.repeat(np.cumsum(counts) - counts, counts)
    return seqs.astype(np.int32), (number * rows_per_tile).astype(np.int32)
