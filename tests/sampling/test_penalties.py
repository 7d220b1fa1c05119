from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quire.sampling.penalties import add_bias, apply_penalties

VOCAB = 12
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=20)


def naive(logits: list[float], prompt: list[int], output: list[int], r: float, p: float, f: float) -> list[float]:
    """The definition, token by token."""
    counts = Counter(output)
    result = []
    for token, logit in enumerate(logits):
        if token in prompt or token in output:
            logit = logit / r if logit > 0 else logit * r
        result.append(logit - f * counts[token] - p * (counts[token] > 0))
    return result


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=VOCAB, max_size=VOCAB),
    tokens,
    tokens,
    st.floats(0.5, 2.0),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_penalties_follow_the_definition(
    logits: list[float], prompt: list[int], output: list[int], r: float, p: float, f: float
) -> None:
    row = np.array(logits, np.float32)
    apply_penalties(row, np.array(prompt, np.int32), np.array(output, np.int32), repetition=r, presence=p, frequency=f)
    np.testing.assert_allclose(row, naive(logits, prompt, output, r, p, f), rtol=1e-5, atol=1e-4)


def test_masked_tokens_stay_masked() -> None:
    row = np.array([-np.inf, 1.0], np.float32)
    seen = np.array([0, 1], np.int32)
    apply_penalties(row, seen, seen, repetition=1.5, presence=-2.0, frequency=-2.0)
    assert row[0] == -np.inf
    assert np.isfinite(row[1])


def test_bias_adds_up() -> None:
    row = np.zeros(4, np.float32)
    add_bias(row, np.array([1, 3, 1], np.int32), np.array([2.0, -100.0, 0.5], np.float32))
    assert row.tolist() == [0.0, 2.5, 0.0, -100.0]
