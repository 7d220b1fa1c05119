"""Sampling slice by slice gives what sampling at once gives."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from quire.device.sliced_sampling import SlicedSampler
from quire.errors import InternalError
from quire.sampling.batch import LogprobRows, SamplingBatch, TokenLists
from quire.sampling.sampler import sample

VOCAB = 40


def _batch() -> SamplingBatch:
    """Five rows that use every field, out of order, and four prompt rows."""
    lists = TokenLists.of([[1, 2], [], [3], [4, 5, 6], [7]])
    return SamplingBatch(
        rows=np.array([9, 0, 4, 5, 10], np.int32),
        temperature=np.array([0, 1, 0.7, 2, 0], np.float32),
        seed=np.arange(5, dtype=np.uint64),
        sequence_index=np.array([0, 1, 0, 0, 2], np.uint32),
        position=np.array([5, 6, 7, 8, 9], np.int32),
        top_k=np.array([0, 3, 0, 9, 1], np.int32),
        top_p=np.array([1, 0.9, 0.5, 1, 1], np.float32),
        min_p=np.array([0, 0.1, 0, 0, 0], np.float32),
        repetition_penalty=np.array([1, 1.5, 1, 2, 1], np.float32),
        presence_penalty=np.array([0, 1, 0, 0.5, 0], np.float32),
        frequency_penalty=np.array([0, 0, 1, 0, 0.5], np.float32),
        prompt_tokens=lists,
        output_tokens=TokenLists.of([[], [8, 8], [9], [], [10]]),
        allowed=TokenLists.of([[], [], [11, 12, 13], [], []]),
        banned=TokenLists.of([[14], [], [], [15], []]),
        bias=TokenLists.of([[16], [], [17], [], []], [[100.0], [], [1.0], [], []]),
        mask=np.full((5, 2), 0xFFFFFFFF, np.uint32),
        num_logprobs=np.array([2, -1, 0, 3, -1], np.int32),
        prompt_rows=np.array([1, 3, 6, 8], np.int32),
        prompt_targets=np.array([20, 21, 22, 23], np.int32),
        prompt_num_logprobs=np.array([1, 1, 4, 0], np.int32),
    )


def _sampled(batch: SamplingBatch, logits: np.ndarray, size: int) -> SlicedSampler:
    sampler = SlicedSampler(batch)
    for start in range(0, len(logits), size):
        sampler.add(start, logits[start : start + size])
    return sampler


def _assert_equal(ours: LogprobRows | None, whole: LogprobRows | None) -> None:
    assert ours is not None
    assert whole is not None
    np.testing.assert_array_equal(ours.token_ids, whole.token_ids)
    np.testing.assert_array_equal(ours.logprobs, whole.logprobs)
    np.testing.assert_array_equal(ours.ranks, whole.ranks)


def test_the_batch_uses_every_field() -> None:
    assert all(getattr(_batch(), field.name) is not None for field in fields(SamplingBatch))


@pytest.mark.parametrize("size", [1, 2, 4, 7, 11, 50])
def test_slices_change_nothing(size: int) -> None:
    logits = np.random.default_rng(0).standard_normal((11, VOCAB)).astype(np.float32) * 3
    whole, ours = sample(logits, _batch()), _sampled(_batch(), logits, size).result()
    np.testing.assert_array_equal(ours.tokens, whole.tokens)
    _assert_equal(ours.logprobs, whole.logprobs)
    _assert_equal(ours.prompt_logprobs, whole.prompt_logprobs)


def test_a_row_beyond_the_logits_is_a_bug() -> None:
    logits = np.zeros((10, VOCAB), np.float32)
    with pytest.raises(InternalError, match="1 sampled rows"):
        _sampled(_batch(), logits, 4).result()
