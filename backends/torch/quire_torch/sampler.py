"""Sampling on the device: the tokens of `quire.sampling.sampler`, without logits or tokens leaving the device.

The steps are the core's, in its order; features that are not here (log-probabilities) are not declared, and such
steps are sampled by the core. The noise agrees with numpy's to the last bits of a logarithm, so a draw could differ
only where two tokens' totals do not differ by more.

Shapes here: L = rows of logits, V = vocabulary, R = sampled rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from quire.device.device_sampling import NOT_FINITE
from quire.sampling.batch import NO_TOKEN, SamplingBatch, TokenLists
from quire.sampling.filters import min_p_threshold
from quire_torch.philox import gumbel

_MOST_NOISE = 1 << 24  # elements of noise made at once

Put = Callable[[np.ndarray], torch.Tensor]


def sample(logits: torch.Tensor, batch: SamplingBatch, put: Put) -> torch.Tensor:
    """One token for each sampled row, int32 [R] on the logits' device; it is not waited for.

    Args:
        logits: float32 [L, V]; not written to. put: host array to the device.
    Returns: NO_TOKEN for a row without a token to draw, NOT_FINITE for one whose logits hold NaN or +inf.
    """
    rows = logits[put(batch.rows)].float()  # [R, V], a copy
    largest = rows.amax(dim=1)
    broken = largest.isnan() | (largest == torch.inf)
    rows = _changed(rows, batch, put)
    best, tokens = rows.max(dim=1)
    drawn = np.flatnonzero(batch.temperature > 0)
    if len(drawn):
        where = put(drawn)
        tokens[where] = _drawn_tokens(rows[where], best[where], batch, drawn, put)
    tokens = tokens.masked_fill(best == -torch.inf, NO_TOKEN).masked_fill(broken, NOT_FINITE)
    return tokens.to(torch.int32)


def _changed(rows: torch.Tensor, batch: SamplingBatch, put: Put) -> torch.Tensor:
    """Masks, bans, bias and penalties, in the core's order; writes to `rows`."""
    if batch.allowed is not None:
        index = _entries(batch.allowed, put)
        kept = torch.ones_like(rows, dtype=torch.bool)
        kept[put(np.flatnonzero(np.diff(batch.allowed.offsets) > 0))] = False
        kept[index] = True
        rows = rows.masked_fill_(~kept, -torch.inf)
    if batch.mask is not None:
        token_ids = torch.arange(rows.shape[1], device=rows.device)
        words = put(batch.mask.view(np.int32))[:, token_ids >> 5]
        rows = rows.masked_fill_(((words >> (token_ids & 31).to(torch.int32)) & 1) == 0, -torch.inf)
    if batch.banned is not None:
        rows[_entries(batch.banned, put)] = -torch.inf
    if batch.bias is not None and batch.bias.values is not None:
        rows.index_put_(_entries(batch.bias, put), put(batch.bias.values), accumulate=True)
    return _penalized(rows, batch, put)


def _penalized(rows: torch.Tensor, batch: SamplingBatch, put: Put) -> torch.Tensor:
    if batch.repetition_penalty is not None:
        seen = torch.zeros_like(rows, dtype=torch.bool)
        for history in (batch.prompt_tokens, batch.output_tokens):
            if history is not None:
                seen[_entries(history, put)] = True
        factor = put(batch.repetition_penalty)[:, None]
        rows = torch.where(seen, torch.where(rows > 0, rows / factor, rows * factor), rows)
    if batch.output_tokens is None or (batch.presence_penalty is None and batch.frequency_penalty is None):
        return rows
    index = _entries(batch.output_tokens, put)
    counts = torch.zeros_like(rows).index_put_(index, torch.ones_like(index[0], dtype=rows.dtype), accumulate=True)
    if batch.frequency_penalty is not None:
        rows = rows - put(batch.frequency_penalty)[:, None] * counts
    if batch.presence_penalty is not None:
        rows = rows - put(batch.presence_penalty)[:, None] * (counts > 0)
    return rows


def _entries(lists: TokenLists, put: Put) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, token) of every entry, int64 both."""
    rows = np.repeat(np.arange(len(lists.offsets) - 1), np.diff(lists.offsets))
    return put(rows), put(lists.tokens.astype(np.int64))


def _drawn_tokens(
    rows: torch.Tensor, best: torch.Tensor, batch: SamplingBatch, drawn: np.ndarray, put: Put
) -> torch.Tensor:
    """int64 tokens of rows [D, V] with a temperature; `drawn` are their places in the batch."""
    scores = (rows - best[:, None]) / put(batch.temperature[drawn])[:, None]
    scores = _filtered(scores, batch, drawn, put)
    seed = batch.seed[drawn].astype(np.uint64)
    halves = seed & np.uint64(0xFFFFFFFF), seed >> np.uint64(32)
    words = (*halves, batch.sequence_index[drawn], batch.position[drawn])
    low, high, sequence_index, position = (put(word.astype(np.int64)) for word in words)
    tokens = []
    step = max(1, _MOST_NOISE // scores.shape[1])
    for start in range(0, len(drawn), step):
        part = slice(start, start + step)
        noise = gumbel((low[part], high[part]), sequence_index[part], position[part], scores.shape[1])
        tokens.append((scores[part] + noise).argmax(dim=1))
    return torch.cat(tokens)


def _filtered(scores: torch.Tensor, batch: SamplingBatch, drawn: np.ndarray, put: Put) -> torch.Tensor:
    """Scores with -inf for what min_p, top_k and top_p leave out; all three are thresholds, so ties stay."""
    limit = np.full(len(drawn), -np.inf, np.float32)
    if batch.min_p is not None:
        limit = np.array([min_p_threshold(float(p)) for p in batch.min_p[drawn]], np.float32)
    vocab_size = scores.shape[1]
    top_k = np.zeros(len(drawn), np.int64) if batch.top_k is None else batch.top_k[drawn].astype(np.int64)
    top_k = np.where((top_k > 0) & (top_k < vocab_size), top_k, vocab_size)
    top_p = np.ones(len(drawn), np.float32) if batch.top_p is None else batch.top_p[drawn]
    limits = put(limit)[:, None]
    if (top_k < vocab_size).any() or (top_p < 1).any():
        wanted = vocab_size if (top_p < 1).any() else int(top_k[top_k < vocab_size].max())
        descending = torch.topk(scores, wanted, dim=1).values
        limited = put(top_k < vocab_size)[:, None]
        kth = descending.gather(1, put(np.minimum(top_k, wanted) - 1)[:, None])
        limits = torch.where(limited, torch.maximum(limits, kth), limits)
        if (top_p < 1).any():
            limits = torch.maximum(limits, _top_p_limits(descending, limits, put(top_p)[:, None]))
    elif batch.min_p is None:
        return scores
    return scores.masked_fill(scores < limits, -torch.inf)


def _top_p_limits(descending: torch.Tensor, limits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """[D, 1]: the score at which the tokens above `limits` [D, 1] first hold `top_p` [D, 1] of their probability.

    Probabilities are float32, their running sum float64.
    """
    mass = torch.exp(descending).masked_fill(descending < limits, 0.0).to(torch.float64).cumsum(dim=1)
    kept = (descending >= limits).sum(dim=1, keepdim=True)
    last = torch.searchsorted(mass, top_p.to(torch.float64) * mass[:, -1:])
    found = descending.gather(1, torch.minimum(last, kept - 1).clamp(min=0))
    return torch.where(top_p < 1, found, -torch.inf)
