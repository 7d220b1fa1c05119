"""How a ragged step becomes rectangles for attention in plain torch, within a bound on the memory they take.

Sequences with one query row (decode) share tiles; longer queries are cut by rows, one sequence to a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from quire.device.batch import StepBatch
from quire_torch.attention import Tile

_MOST_ELEMENTS = 1 << 25  # of the scores or the gathered keys of one tile: 128 MiB in float32


def attention_tiles(
    batch: StepBatch,
    group: str,
    block_size: int,
    put: Callable[[np.ndarray], torch.Tensor],
    *,
    num_heads: int,
    row_elements: int,
    trash: int,
    window: int,
    causal: bool,
) -> list[Tile]:
    """Tiles that hold every token of the step once.

    Args:
        num_heads: query heads; row_elements: elements of one token's keys and values together.
        trash: the block that stands for those which are not resident.
    """
    tables = batch.groups[group].block_tables
    query_lens = np.diff(batch.query_start_loc)
    tiles = []
    for seqs, first_row, num_rows in _rectangles(batch, query_lens, num_heads, row_elements):
        rows = batch.query_start_loc[seqs][:, None] + first_row + np.arange(num_rows)  # [n, q]
        index = batch.num_computed[seqs][:, None] + first_row + np.arange(num_rows)  # [n, q]
        last = index[:, -1] if causal else batch.seq_lens[seqs] - 1
        first_page = np.maximum(index[:, 0] - window + 1, 0) // block_size if window else np.zeros(len(seqs), np.int64)
        num_pages = int((last // block_size - first_page).max()) + 1
        page_index = first_page[:, None] + np.arange(num_pages)  # [n, p]
        inside = page_index < tables.shape[1]
        pages = np.where(inside, tables[seqs[:, None], np.minimum(page_index, tables.shape[1] - 1)], -1)
        keys = (page_index[:, :, None] * block_size + np.arange(block_size)).reshape(len(seqs), -1)  # [n, keys]
        seen = (np.repeat(pages >= 0, block_size, axis=1) & (keys < batch.seq_lens[seqs][:, None]))[:, None, :]
        if causal:
            seen = seen & (keys[:, None, :] <= index[:, :, None])
        if window:
            seen = seen & (keys[:, None, :] > index[:, :, None] - window)
        seen = np.broadcast_to(seen, (len(seqs), num_rows, keys.shape[1]))
        pages = np.where(pages < 0, trash, pages)
        tiles.append(
            Tile(
                put(rows.reshape(-1).astype(np.int64)),
                put(pages.astype(np.int64)),
                put(np.ascontiguousarray(seen)),
                put(index.astype(np.int64)),
                put(keys.astype(np.int64)),
            )
        )
    return tiles


def _rectangles(
    batch: StepBatch, query_lens: np.ndarray, num_heads: int, row_elements: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """(sequences, first query row, number of query rows); equal numbers of rows within one rectangle."""
    single = np.flatnonzero(query_lens == 1)
    single = single[np.argsort(batch.num_computed[single], kind="stable")]  # like lengths together: less padding
    start = 0
    while start < len(single):
        costs = np.arange(1, len(single) - start + 1) * (batch.num_computed[single[start:]] + 1) * row_elements
        count = max(1, int((costs <= _MOST_ELEMENTS).sum()))
        yield single[start : start + count], 0, 1
        start += count
    for seq in np.flatnonzero(query_lens > 1):
        most_rows = max(1, _MOST_ELEMENTS // (num_heads * int(batch.seq_lens[seq])))
        for row in range(0, int(query_lens[seq]), most_rows):
            yield np.array([seq]), row, min(most_rows, int(query_lens[seq]) - row)
