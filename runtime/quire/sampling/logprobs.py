"""Log-probabilities of raw logits: the chosen token's, its rank, and the most likely ones'.

Shapes here: L = rows of logits, V = vocabulary.
"""

from __future__ import annotations

import numpy as np

from quire.sampling.batch import F32, I32, LogprobRows
from quire.sampling.checks import is_finite_row
from quire.sampling.filters import kth_largest


def log_normalizer(logits_V: F32) -> np.float32:
    """log(sum(exp(logits))), float32, without overflow; 0 when every logit is -inf."""
    largest = logits_V.max()
    if largest == -np.inf:
        return np.float32(0.0)
    return np.float32(largest + np.log(np.exp(logits_V - largest).sum()))


def top_tokens(logits_V: F32, count: int) -> I32:
    """The `count` most likely token ids, best first, equals by lower id; int32 [min(count, V)]."""
    count = min(count, len(logits_V))
    if count == 0:
        return np.empty(0, np.int32)
    candidates = np.flatnonzero(logits_V >= kth_largest(logits_V, count))
    order = np.argsort(-logits_V[candidates], kind="stable")[:count]
    return candidates[order].astype(np.int32)


def rank_of(logits_V: F32, token: int) -> int:
    """1 + the number of tokens that are strictly more likely."""
    return 1 + int(np.count_nonzero(logits_V > logits_V[token]))


def logprob_rows(logits: F32, rows: I32, tokens: I32, counts: I32) -> LogprobRows:
    """For each of `rows`: its token first, then its `counts[i]` most likely tokens.

    Args:
        logits: float32 [L, V], raw. rows: int32, indices into it.
        tokens: int32, the drawn or actual token, or NO_TOKEN or NOT_FINITE.
        counts: int32, how many top tokens; -1 = nothing for this row.
    Returns: unused places have token id -1 and logprob -inf; rank 0 where column 0 is unused. Where a row holds NaN or
        +inf, its first logprob is NaN and the others are unused.
    """
    width = 1 + max(int(counts.max(initial=0)), 0)
    token_ids = np.full((len(tokens), width), -1, np.int32)
    values = np.full((len(tokens), width), -np.inf, np.float32)
    ranks = np.zeros(len(tokens), np.int32)
    for index, (token, count) in enumerate(zip(tokens.tolist(), counts.tolist(), strict=True)):
        if count < 0:
            continue
        row_V = logits[rows[index]]
        if not is_finite_row(float(row_V.max())):
            values[index, 0] = np.nan
            continue
        normalizer = log_normalizer(row_V)
        top = top_tokens(row_V, count)
        token_ids[index, 1 : 1 + len(top)] = top
        values[index, 1 : 1 + len(top)] = row_V[top] - normalizer
        if token >= 0:
            token_ids[index, 0], values[index, 0] = token, row_V[token] - normalizer
            ranks[index] = rank_of(row_V, token)
    return LogprobRows(token_ids, values, ranks)
