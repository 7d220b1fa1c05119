from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.sampling import filters
from quire.sampling.batch import F32


@st.composite
def score_rows(draw: st.DrawFn, distinct: bool = False) -> F32:
    """Scores as the sampler makes them: best 0, others below; coarse values give ties."""
    size = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.01, 1.0, 5.0, 40.0]))
    logits = rng.permutation(np.linspace(0, spread, size)) if distinct else rng.normal(0, spread, size).round(1)
    scores: F32 = (logits - logits.max()).astype(np.float32)
    return scores


@given(score_rows(distinct=True), st.integers(0, 320))
def test_top_k_keeps_exactly_k_distinct_scores(scores: F32, top_k: int) -> None:
    kept = int((scores >= np.float32(filters.top_k_threshold(scores, top_k))).sum())
    assert kept == (min(top_k, len(scores)) if top_k else len(scores))


@given(score_rows(), st.integers(1, 320))
def test_top_k_keeps_ties_with_the_last(scores: F32, top_k: int) -> None:
    kept = scores >= np.float32(filters.top_k_threshold(scores, top_k))
    last = np.sort(scores)[::-1][min(top_k, len(scores)) - 1]
    np.testing.assert_array_equal(kept, scores >= last)


@settings(max_examples=300)
@given(score_rows(), st.floats(0.001, 0.999))
def test_top_p_is_the_smallest_set_with_the_mass(scores: F32, top_p: float) -> None:
    limit = np.float32(filters.top_p_threshold(scores, top_p))
    probabilities = np.exp(scores.astype(np.float64))
    probabilities /= probabilities.sum()
    kept = scores >= limit
    assert kept.any()
    assert probabilities[kept].sum() >= top_p - 1e-5
    assert probabilities[scores > limit].sum() < top_p + 1e-5  # without the last value it would not be enough


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_agrees_when_the_head_is_not_enough(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = -np.random.default_rng(1).random(5000).astype(np.float32) * 30
    scores[0] = 0
    short = filters.top_p_threshold(scores, top_p)
    monkeypatch.setattr(filters, "_HEAD", np.float32(-0.01))
    assert filters.top_p_threshold(scores, top_p) == short


@given(score_rows(), st.floats(0.001, 1.0))
def test_min_p_compares_with_the_best(scores: F32, min_p: float) -> None:
    limit = filters.min_p_threshold(min_p)
    relative = np.exp(scores.astype(np.float64))
    clear = np.abs(relative - min_p) > 1e-5
    np.testing.assert_array_equal((scores >= np.float32(limit))[clear], (relative >= min_p)[clear])
    assert scores.max() >= limit


def test_off_means_everything() -> None:
    scores = np.array([0, -1, -math.inf], np.float32)
    assert filters.threshold(scores) == filters.EVERYTHING
    assert filters.threshold(scores, top_k=3) == filters.EVERYTHING
    assert filters.top_p_threshold(scores, 1.0) == filters.EVERYTHING


def test_top_p_takes_its_share_of_what_top_k_left() -> None:
    scores = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32) / np.float32(0.4))
    # of all: 0.4 + 0.3 reach 0.6. Of the best two: 0.4 / 0.7 = 0.571 does not reach 0.6, so both stay
    assert (scores >= np.float32(filters.threshold(scores, top_k=2, top_p=0.6))).sum() == 2
    # 0.4 / 0.7 reaches 0.55, while of all four 0.4 would not
    assert (scores >= np.float32(filters.threshold(scores, top_k=2, top_p=0.55))).sum() == 1
    assert (scores >= np.float32(filters.threshold(scores, top_p=0.55))).sum() == 2


def test_min_p_and_top_k_both_hold() -> None:
    scores = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32) / np.float32(0.4))
    assert (scores >= np.float32(filters.threshold(scores, min_p=0.6, top_k=3))).sum() == 2
    assert (scores >= np.float32(filters.threshold(scores, min_p=0.1, top_k=3))).sum() == 3
