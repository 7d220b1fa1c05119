"""The draw: the token whose score plus Gumbel noise is largest, which samples from softmax(scores).

The noise of one token costs some fifty integer operations, and vocabularies have 150,000 tokens, so tokens that
cannot win are left out first. That never changes the outcome: Gumbel numbers of 24-bit uniforms have a largest
value, and a token is left out only when even that would not lift it over one already seen.
Source: Gumbel-max, Maddison et al., arXiv:1411.0030.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from quire.sampling.batch import F32, I32, U32, U64
from quire.sampling.philox import GUMBEL_MAX, gumbel, gumbel_all

_PRUNE_ABOVE = 4096  # candidates; with fewer, looking for losers costs more than their noise
_HEAD = np.float32(-2.0)  # scores whose noise is computed first, to see what must be beaten
_HEAD_TOKENS = 1024
_BATCH_TOKENS = 1 << 13  # candidates per Philox call: few calls, and arrays that stay in the cache


class Candidates(NamedTuple):
    """What one row may draw.

    Attributes:
        token_ids: ascending int, or None = every token of the vocabulary.
        scores: float32, one per candidate; the best has 0 (scores need no normalisation).
    """

    token_ids: I32 | None
    scores: F32


def draw(rows: Sequence[Candidates], seed: U64, sequence_index: U32, position: I32) -> I32:
    """One token per row, int32; equal totals go to the lowest id.

    Args:
        rows: the candidates of each row. seed, sequence_index, position: [len(rows)], the key of its noise.
    """
    tokens = np.empty(len(rows), np.int32)
    sparse: list[int] = []
    dense: list[int] = []
    small = dict(enumerate(rows))
    for index, row in enumerate(rows):
        key = (seed[index], sequence_index[index], position[index])
        if len(row.scores) > _PRUNE_ABOVE:
            small[index] = row = _contenders(row, *key)
        if row.token_ids is None:
            dense.append(index)
        elif len(row.scores) > _PRUNE_ABOVE and 4 * len(row.scores) > row.token_ids[-1]:
            noise = gumbel_all(*key, int(row.token_ids[-1]) + 1)
            tokens[index] = row.token_ids[int((row.scores + noise[row.token_ids]).argmax())]
        else:
            sparse.append(index)
    for batch in _batches(dense, small, 8 * _BATCH_TOKENS):
        scores = np.stack([small[index].scores for index in batch])
        totals = gumbel_all(seed[batch], sequence_index[batch], position[batch], scores.shape[1])
        totals += scores
        tokens[batch] = totals.argmax(axis=1)
    for batch in _batches(sparse, small, _BATCH_TOKENS):
        candidates = [small[index] for index in batch]
        tokens[batch] = _draw_sparse(candidates, seed[batch], sequence_index[batch], position[batch])
    return tokens


def _draw_sparse(rows: Sequence[Candidates], seed: U64, sequence_index: U32, position: I32) -> list[int]:
    """The draw of rows with lists of candidates, all in one Philox call."""
    lengths = [len(row.scores) for row in rows]
    token_ids = np.concatenate([row.token_ids for row in rows if row.token_ids is not None])
    row_of = np.repeat(np.arange(len(rows)), lengths)
    totals = gumbel(seed[row_of], sequence_index[row_of], position[row_of], token_ids)
    totals += np.concatenate([row.scores for row in rows])
    drawn = []
    start = 0
    for length in lengths:
        drawn.append(int(token_ids[start + int(totals[start : start + length].argmax())]))
        start += length
    return drawn


def _contenders(row: Candidates, seed: np.uint64, sequence_index: np.uint32, position: np.int32) -> Candidates:
    """The candidates that can still win, given the noise of the most likely ones."""
    head = np.flatnonzero(row.scores >= _HEAD)[:_HEAD_TOKENS]
    head_ids = head if row.token_ids is None else row.token_ids[head]
    best = float((row.scores[head] + gumbel(seed, sequence_index, position, head_ids)).max())
    kept = np.flatnonzero(row.scores >= np.float32(best - GUMBEL_MAX))
    if row.token_ids is None and 4 * len(kept) > len(row.scores):
        return row  # noise for all tokens shares its Philox calls four by four
    return Candidates((kept if row.token_ids is None else row.token_ids[kept]).astype(np.int32), row.scores[kept])


def _batches(indices: Sequence[int], rows: dict[int, Candidates], limit: int) -> Iterator[list[int]]:
    """Splits rows into runs of at most `limit` candidates, at least one row each."""
    batch: list[int] = []
    num_tokens = 0
    for index in indices:
        length = len(rows[index].scores)
        if batch and num_tokens + length > limit:
            yield batch
            batch, num_tokens = [], 0
        batch.append(index)
        num_tokens += length
    if batch:
        yield batch
