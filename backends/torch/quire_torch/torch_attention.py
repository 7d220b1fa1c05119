"""`Attention` in plain torch: the tiles of a step are made once for all layers that see the same keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from quire.device.contract import CacheHandle, StepContext
from quire_torch.attention import Tile, paged_attention
from quire_torch.step_memo import StepMemo
from quire_torch.tiles import attention_tiles


class TorchAttention:
    """Runs on every device that torch has."""

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
        row_elements = k[0, 0].numel() + v[0, 0].numel()

        def make() -> list[Tile]:
            return attention_tiles(
                context.batch,
                cache.group,
                context.block_size,
                self._put,
                num_heads=q.shape[1],
                row_elements=row_elements,
                trash=k.shape[0] - 1,
                window=window,
                causal=causal,
            )

        tiles = self._memo.get(context, ("tiles", cache.group, window, causal, q.shape[1], row_elements), make)
        return paged_attention(q, cache.arrays, tiles, scale=scale, softcap=softcap, sinks=sinks, slopes=slopes)
