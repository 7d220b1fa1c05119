from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.sampling import draw as draw_module
from quire.sampling.batch import F32, I32
from quire.sampling.draw import Candidates, draw
from quire.sampling.philox import gumbel


def whole(row: Candidates, seed: int, sequence_index: int, position: int) -> int:
    """The draw with the noise of every candidate."""
    token_ids = np.arange(len(row.scores)) if row.token_ids is None else row.token_ids
    return int(token_ids[(row.scores + gumbel(np.uint64(seed), sequence_index, position, token_ids)).argmax()])


def keys(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray, I32]:
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 2**64, count, np.uint64),
        rng.integers(0, 4, count, np.uint32),
        rng.integers(0, 9999, count, np.int32),
    )


def scores_of(rng: np.random.Generator, size: int, spread: float) -> F32:
    logits = rng.normal(0, spread, size).astype(np.float32)
    return logits - logits.max()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 2.0, 6.0]), st.integers(1, 4))
def test_leaving_out_losers_changes_nothing(seed: int, spread: float, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        scores = scores_of(rng, 6000, spread)
        ids = np.flatnonzero((rng.random(6000) < rng.random()) | (scores == 0)).astype(np.int32)
        rows.append(Candidates(None, scores) if rng.random() < 0.5 else Candidates(ids, scores[ids]))
    seeds, indices, positions = keys(num_rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw_module, "_PRUNE_ABOVE", 100)
        drawn = draw(rows, seeds, indices, positions)
    assert drawn.tolist() == [whole(row, *key) for row, *key in zip(rows, seeds, indices, positions, strict=True)]


def test_equal_scores_and_noise_batches_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = [Candidates(None, scores_of(rng, 300, 1.0)) for _ in range(400)]
    rows[7] = Candidates(np.array([250], np.int32), np.zeros(1, np.float32))
    seeds, indices, positions = keys(400)
    drawn = draw(rows, seeds, indices, positions)
    assert drawn.tolist() == [whole(row, *key) for row, *key in zip(rows, seeds, indices, positions, strict=True)]
    assert drawn[7] == 250


def test_frequencies_are_the_softmax() -> None:
    """Chi-square with 7 degrees of freedom; 24.3 is exceeded by chance once in a thousand, and seeds are fixed."""
    probabilities = np.array([0.3, 0.25, 0.2, 0.1, 0.08, 0.04, 0.02, 0.01])
    scores = np.log(probabilities / probabilities.max()).astype(np.float32)
    num_draws = 20_000
    row = Candidates(None, scores)
    by_position = draw(
        [row] * num_draws,
        np.full(num_draws, 42, np.uint64),
        np.zeros(num_draws, np.uint32),
        np.arange(num_draws, dtype=np.int32),
    )
    by_seed = draw(
        [row] * num_draws,
        np.arange(num_draws, dtype=np.uint64),
        np.zeros(num_draws, np.uint32),
        np.zeros(num_draws, np.int32),
    )
    by_sequence = draw(
        [row] * num_draws,
        np.full(num_draws, 42, np.uint64),
        np.arange(num_draws, dtype=np.uint32),
        np.zeros(num_draws, np.int32),
    )
    for drawn in (by_position, by_seed, by_sequence):
        expected = probabilities * num_draws
        observed = np.bincount(drawn, minlength=8)
        assert ((observed - expected) ** 2 / expected).sum() < 24.3


def test_successive_positions_are_independent() -> None:
    """Pairs (token at position i, at i + 1) of a fair coin; chi-square with 3 degrees of freedom."""
    num_draws = 10_000
    drawn = draw(
        [Candidates(None, np.zeros(2, np.float32))] * num_draws,
        np.full(num_draws, 1, np.uint64),
        np.zeros(num_draws, np.uint32),
        np.arange(num_draws, dtype=np.int32),
    )
    observed = np.bincount(2 * drawn[:-1] + drawn[1:], minlength=4)
    expected = (num_draws - 1) / 4
    assert ((observed - expected) ** 2 / expected).sum() < 16.3
