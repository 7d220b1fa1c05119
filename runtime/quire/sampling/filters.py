"""min_p, top_k and top_p, each as a threshold: a token survives when its score is at least the threshold.

A score is (logit - largest logit) / temperature, float32, so the best token has 0 and exp(score) is its probability
relative to the best. All three filters keep a most likely set, so each is one number; tokens that tie with the last
one kept are kept too, which makes the outcome independent of any order among equals.
Source: top_p, arXiv:1904.09751; min_p, arXiv:2407.01082.
"""

from __future__ import annotations

import math

import numpy as np

from quire.sampling.batch import F32

EVERYTHING = -math.inf
"""The threshold that keeps all tokens."""

_HEAD = np.float32(-10.0)
"""top_p looks first at tokens within this score: less likely ones seldom matter, and sorting fewer is faster."""


def min_p_threshold(min_p: float) -> float:
    """Tokens at least `min_p` times as likely as the best one; 0 keeps all."""
    return float(np.log(np.float32(min_p))) if min_p > 0.0 else EVERYTHING


def top_k_threshold(scores_V: F32, top_k: int) -> float:
    """The `top_k`-th largest score; 0, or as many as there are, keeps all."""
    if not 0 < top_k < len(scores_V):
        return EVERYTHING
    return kth_largest(scores_V, top_k)


def kth_largest(values: F32, k: int) -> float:
    """The k-th largest of the values, 1 <= k <= their number, without sorting them all."""
    if k == 1:
        return float(values.max())
    return float(np.partition(values, len(values) - k)[len(values) - k])


def top_p_threshold(scores: F32, top_p: float) -> float:
    """The score at which the most likely tokens first hold `top_p` of the probability of all `scores` given.

    Probabilities are float32, their running sum float64. At least the best token survives.
    """
    if top_p >= 1.0:
        return EVERYTHING
    needed = top_p * float(np.exp(scores).sum(dtype=np.float64))
    head = scores[scores >= _HEAD]
    if float(np.exp(head).sum(dtype=np.float64)) < needed:
        head = scores
    descending = np.sort(head)[::-1]
    mass = np.cumsum(np.exp(descending), dtype=np.float64)
    return float(descending[min(int(np.searchsorted(mass, needed)), len(descending) - 1)])


def threshold(scores_V: F32, *, min_p: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> float:
    """min_p, then top_k among what it leaves, then top_p of the probability left after both."""
    limit = max(min_p_threshold(min_p), top_k_threshold(scores_V, top_k))
    if top_p < 1.0:
        kept = scores_V if limit == EVERYTHING else scores_V[scores_V >= limit]
        limit = max(limit, top_p_threshold(kept, top_p))
    return limit
