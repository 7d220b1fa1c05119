from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import RequestError
from quire.sampling.batch import F32, NO_TOKEN, NOT_FINITE, SamplingBatch, TokenLists, features_used
from quire.sampling.philox import gumbel
from quire.sampling.sampler import nothing_to_draw_error, sample

VOCAB = 67


def batch_of(num_rows: int, temperature: float = 0.0, **arrays: Any) -> SamplingBatch:
    return SamplingBatch(
        rows=np.arange(num_rows, dtype=np.int32),
        temperature=np.full(num_rows, temperature, np.float32),
        seed=np.arange(100, 100 + num_rows, dtype=np.uint64),
        sequence_index=np.zeros(num_rows, np.uint32),
        position=np.arange(num_rows, dtype=np.int32),
        **arrays,
    )


def random_case(seed: int, num_rows: int = 5) -> tuple[F32, SamplingBatch]:
    """Logits and a batch that uses every feature on some rows."""
    rng = np.random.default_rng(seed)

    def lists(chance: float, limit: int) -> list[list[int]]:
        return [
            rng.choice(VOCAB, int(rng.integers(1, limit)), replace=False).tolist() if rng.random() < chance else []
            for _ in range(num_rows)
        ]

    def of(values: list[float]) -> F32:
        return rng.choice(values, num_rows).astype(np.float32)

    bias = lists(0.5, 5)
    batch = replace(
        batch_of(num_rows),
        rows=rng.permutation(num_rows + 2)[:num_rows].astype(np.int32),
        temperature=of([0.0, 0.3, 1.0, 2.0]),
        seed=rng.integers(0, 2**64, num_rows, np.uint64),
        sequence_index=rng.integers(0, 3, num_rows, np.uint32),
        position=rng.integers(0, 500, num_rows, np.int32),
        top_k=rng.choice([0, 1, 5, 30], num_rows).astype(np.int32),
        top_p=of([1.0, 0.9, 0.5]),
        min_p=of([0.0, 0.05, 0.3]),
        repetition_penalty=of([1.0, 1.3, 0.8]),
        presence_penalty=of([0.0, 0.5]),
        frequency_penalty=of([0.0, -0.2]),
        prompt_tokens=TokenLists.of(lists(0.8, 10)),
        output_tokens=TokenLists.of(lists(0.8, 10)),
        allowed=TokenLists.of(lists(0.4, 40)),
        banned=TokenLists.of(lists(0.5, 10)),
        bias=TokenLists.of(bias, [rng.normal(0, 3, len(row)).tolist() for row in bias]),
        mask=rng.integers(0, 2**32, (num_rows, (VOCAB + 31) // 32), np.uint32),
    )
    return rng.normal(0, 3, (num_rows + 2, VOCAB)).astype(np.float32), batch


def naive_row(logits: F32, batch: SamplingBatch, row: int) -> int:
    """The sampler's definition once more: all tokens, full sorts, one Python loop per feature."""
    x = logits[batch.rows[row]].copy()
    assert batch.allowed
    assert batch.banned
    assert batch.bias
    assert batch.prompt_tokens
    assert batch.output_tokens
    allowed = set(batch.allowed.row(row).tolist())
    banned = set(batch.banned.row(row).tolist())
    for token in range(VOCAB):
        masked = not (int(batch.mask[row, token // 32]) >> (token % 32)) & 1  # type: ignore[index]
        if masked or (allowed and token not in allowed) or token in banned:
            x[token] = -np.inf
    for token, value in zip(batch.bias.row(row), batch.bias.row_values(row), strict=True):
        x[token] += value
    output = batch.output_tokens.row(row).tolist()
    for token in range(VOCAB):
        if token in batch.prompt_tokens.row(row) or token in output:
            r = batch.repetition_penalty[row]  # type: ignore[index]
            x[token] = x[token] / r if x[token] > 0 else x[token] * r
        x[token] -= batch.frequency_penalty[row] * np.float32(output.count(token))  # type: ignore[index]
        x[token] -= batch.presence_penalty[row] if token in output else 0  # type: ignore[index]
    if (x == -np.inf).all():
        return NO_TOKEN
    if batch.temperature[row] == 0:
        return int(x.argmax())
    s = (x - x.max()) / batch.temperature[row]
    s[s < np.log(np.maximum(batch.min_p[row], np.float32(1e-30)))] = -np.inf  # type: ignore[index]
    if k := int(batch.top_k[row]):  # type: ignore[index]
        s[s < np.sort(s)[::-1][k - 1]] = -np.inf
    if batch.top_p[row] < 1:  # type: ignore[index]
        probabilities = np.exp(s.astype(np.float64)) / np.exp(s.astype(np.float64)).sum()
        order = np.argsort(-s, kind="stable")
        needed = int((np.cumsum(probabilities[order]) < float(batch.top_p[row])).sum())  # type: ignore[index]
        s[s < s[order[needed]]] = -np.inf
    return int((s + gumbel(batch.seed[row], batch.sequence_index[row], batch.position[row], np.arange(VOCAB))).argmax())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_feature_together_follows_the_definition(seed: int) -> None:
    logits, batch = random_case(seed)
    before = logits.copy()
    tokens = sample(logits, batch).tokens
    assert tokens.tolist() == [naive_row(logits, batch, row) for row in range(batch.num_rows)]
    np.testing.assert_array_equal(logits, before)


def take_rows(batch: SamplingBatch, order: list[int]) -> SamplingBatch:
    """The batch with its rows in another order, or fewer of them."""
    changes: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, TokenLists):
            values = None if value.values is None else [value.row_values(row).tolist() for row in order]
            changes[field.name] = TokenLists.of([value.row(row).tolist() for row in order], values)
        elif value is not None:
            changes[field.name] = value[order]
    return replace(batch, **changes)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(5)), st.integers(1, 5))
def test_a_row_never_depends_on_the_others(seed: int, order: list[int], count: int) -> None:
    logits, batch = random_case(seed)
    together = sample(logits, batch).tokens
    assert sample(logits, take_rows(batch, order[:count])).tokens.tolist() == together[order[:count]].tolist()


def test_same_seed_and_position_give_the_same_token_in_any_row() -> None:
    rng = np.random.default_rng(5)
    logits = np.repeat(rng.normal(0, 1, (1, 5000)).astype(np.float32), 3, axis=0)
    batch = replace(batch_of(3, 1.0), seed=np.full(3, 9, np.uint64), position=np.array([4, 4, 5], np.int32))
    tokens = sample(logits, batch).tokens
    assert tokens[0] == tokens[1] != tokens[2]
    assert sample(logits[:1], take_rows(batch, [0])).tokens[0] == tokens[0]


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-np.inf, -1, -np.inf, -1]], np.float32)
    assert sample(logits, batch_of(3)).tokens.tolist() == [1, 0, 1]
    assert features_used(batch_of(3)) == frozenset()


def test_rows_index_the_logits() -> None:
    logits = np.eye(4, dtype=np.float32)
    batch = replace(batch_of(2), rows=np.array([3, 1], np.int32))
    assert sample(logits, batch).tokens.tolist() == [3, 1]


def test_frequencies_follow_temperature() -> None:
    """Chi-square with 3 degrees of freedom against softmax(logits / 0.5)."""
    num_rows = 8000
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    tokens = sample(np.tile(logits, (num_rows, 1)), batch_of(num_rows, 0.5)).tokens
    expected = np.array([16, 9, 4, 1]) / 30 * num_rows
    assert ((np.bincount(tokens, minlength=4) - expected) ** 2 / expected).sum() < 16.3


def test_the_smallest_temperature_is_greedy_without_overflow() -> None:
    logits = np.array([[1e30, 3e30, -3e30, 2.9e30]], np.float32)
    with np.errstate(all="raise"):
        assert sample(logits, batch_of(1, 1e-30)).tokens.tolist() == [1]


def test_a_fully_masked_row_draws_nothing_and_others_go_on() -> None:
    logits = np.zeros((3, 40), np.float32)
    mask = np.full((3, 2), 0xFFFFFFFF, np.uint32)
    mask[1] = 0
    for temperature in (0.0, 1.0):
        tokens = sample(logits, batch_of(3, temperature, mask=mask)).tokens
        assert tokens[1] == NO_TOKEN
        assert (tokens[[0, 2]] >= 0).all()
    seven = TokenLists.of([[7]])
    conflict = batch_of(1, allowed=seven, banned=seven, num_logprobs=np.array([2], np.int32))
    result = sample(logits[:1], conflict)
    assert result.tokens.tolist() == [NO_TOKEN]
    assert result.logprobs is not None
    assert result.logprobs.token_ids.tolist() == [[-1, 0, 1]]
    assert isinstance(nothing_to_draw_error(), RequestError)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_nan_is_reported_by_row(bad: float, temperature: float) -> None:
    logits = np.zeros((3, 8), np.float32)
    logits[2, 5] = bad
    healthy = sample(logits, take_rows(batch_of(3, temperature), [0, 1])).tokens
    for batch in (
        batch_of(3, temperature),
        batch_of(3, temperature, banned=TokenLists.of([[], [], [5]])),
        batch_of(3, temperature, num_logprobs=np.array([1, 1, 1], np.int32)),
    ):
        result = sample(logits, batch)
        assert result.tokens[2] == NOT_FINITE
        np.testing.assert_array_equal(result.tokens[:2], healthy)
        assert result.logprobs is None or np.isnan(result.logprobs.logprobs[2, 0])


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32))
    batch = batch_of(1, banned=TokenLists.of([[3]]), num_logprobs=np.array([1], np.int32))
    result = sample(logits, batch)
    assert result.tokens.tolist() == [2]
    assert result.logprobs is not None
    assert result.logprobs.token_ids.tolist() == [[2, 3]]
    np.testing.assert_allclose(np.exp(result.logprobs.logprobs), [[0.3, 0.4]], rtol=1e-5)
    assert result.logprobs.ranks.tolist() == [2]


def test_prompt_logprobs_score_the_actual_tokens() -> None:
    logits = np.log(np.array([[0.1, 0.9], [0.7, 0.3], [0.5, 0.5]], np.float32))
    batch = replace(
        batch_of(1),
        rows=np.array([2], np.int32),
        prompt_rows=np.array([0, 1], np.int32),
        prompt_targets=np.array([0, 0], np.int32),
        prompt_num_logprobs=np.array([0, 1], np.int32),
    )
    result = sample(logits, batch)
    assert result.logprobs is None
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs.token_ids.tolist() == [[0, -1], [0, 0]]
    np.testing.assert_allclose(np.exp(result.prompt_logprobs.logprobs), [[0.1, 0.0], [0.7, 0.7]], rtol=1e-5)
    assert result.prompt_logprobs.ranks.tolist() == [2, 1]


def test_no_rows_is_an_empty_result() -> None:
    assert sample(np.zeros((2, 4), np.float32), batch_of(0)).tokens.shape == (0,)
