"""Every family on every device against transformers: logits first, tokens second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.models.checkpoints import FAMILIES, VOCAB, full_forward
from tests.models.harness import load_model, one_chunk, random_chunks, run_greedy

DEVICES = ("reference",)
NUM_TOKENS = 32
TOLERANCE = 1e-4


def prompt_of(case: str) -> list[int]:
    rng = np.random.default_rng(sum(map(ord, case)))
    return [int(token) for token in rng.integers(3, VOCAB, 27)]


def relative_error(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", FAMILIES)
def test_logits_and_tokens_are_those_of_transformers(
    case: str, device: str, checkpoint: Callable[[str], Path]
) -> None:
    folder, prompt = checkpoint(case), prompt_of(case)
    loaded = load_model(folder, device)
    try:
        whole = run_greedy(loaded, prompt, NUM_TOKENS, one_chunk)
        chunked = run_greedy(loaded, prompt, NUM_TOKENS, random_chunks(np.random.default_rng(1)), seed=1)
    finally:
        loaded.executor.close()
    expected = full_forward(folder, [*prompt, *whole[1][:-1]])
    greedy_tokens = [int(token) for token in expected[len(prompt) - 1 :].argmax(axis=-1)]
    for logits, tokens in (whole, chunked):
        assert tokens == greedy_tokens
        assert relative_error(logits, expected) <= TOLERANCE
