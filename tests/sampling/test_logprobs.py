from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.sampling.logprobs import log_normalizer, logprob_rows, top_tokens


@given(st.integers(1, 200), st.integers(0, 220), st.integers(0, 2**32 - 1))
def test_top_tokens_are_a_stable_sort(vocab_size: int, count: int, seed: int) -> None:
    row = np.random.default_rng(seed).normal(0, 2, vocab_size).round(0).astype(np.float32)  # many ties
    expected = sorted(range(vocab_size), key=lambda token: (-row[token], token))[:count]
    assert top_tokens(row, count).tolist() == expected


def test_rows_hold_the_token_then_the_best() -> None:
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]], np.float32)) + 7
    rows = np.array([1, 0, 2], np.int32)
    out = logprob_rows(logits, rows, np.array([0, 2, 1], np.int32), np.array([1, 3, -1], np.int32))
    assert out.token_ids.tolist() == [[0, 3, -1, -1], [2, 0, 1, 2], [-1, -1, -1, -1]]
    np.testing.assert_allclose(np.exp(out.logprobs[0, :2]), [0.1, 0.4], rtol=1e-5)
    np.testing.assert_allclose(np.exp(out.logprobs[1]), [0.2, 0.5, 0.2, 0.2], rtol=1e-5)
    assert out.ranks.tolist() == [4, 2, 0]
    assert (out.token_ids.dtype, out.logprobs.dtype, out.ranks.dtype) == (np.int32, np.float32, np.int32)


def test_the_whole_vocabulary_sums_to_one() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (1, 1000)).astype(np.float32)
    out = logprob_rows(logits, np.array([0], np.int32), np.array([3], np.int32), np.array([1000], np.int32))
    assert np.exp(out.logprobs[0, 1:]).sum() == pytest.approx(1, abs=1e-4)
    assert (np.diff(out.logprobs[0, 1:]) <= 0).all()
    assert out.token_ids[0, out.ranks[0]] == 3


def test_large_logits_do_not_overflow() -> None:
    assert log_normalizer(np.array([3e38, 1.0], np.float32)) == np.float32(3e38)
    assert log_normalizer(np.array([-3e38, -3e38], np.float32)) == np.float32(-3e38)


def test_a_row_of_nan_is_nan_and_minus_infinity_is_not() -> None:
    logits = np.array([[0, np.nan], [-np.inf, -np.inf], [0, -np.inf]], np.float32)
    one = np.array([1], np.int32)
    broken = logprob_rows(logits, np.array([0], np.int32), one, one)
    assert np.isnan(broken.logprobs[0, 0])
    assert (broken.token_ids.tolist(), broken.ranks.tolist()) == ([[-1, -1]], [0])
    assert logprob_rows(logits, np.array([1], np.int32), one, one).logprobs.tolist() == [[-np.inf, -np.inf]]
    assert logprob_rows(logits, np.array([2], np.int32), one, one).logprobs.tolist() == [[-np.inf, 0.0]]
