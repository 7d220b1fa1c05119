"""Tokens sampled in torch are those of the core's sampler, feature by feature, at vocabularies of odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from quire.device.contract import KVPlan
from quire.sampling.batch import FEATURES, NO_TOKEN, NOT_FINITE, SamplingBatch, TokenLists
from quire.sampling.philox import gumbel_all
from quire.sampling.philox import philox4x32 as numpy_philox
from quire.sampling.sampler import sample as numpy_sample
from quire_torch.philox import gumbel, philox4x32
from quire_torch.plugin import CAPABILITIES, quire_create_executor
from quire_torch.sampler import sample
from quire_torch.tensors import host_tensor
from tests.device.conftest import BLOCK, HEAD_DIM, KV_HEADS, Driver, Line, RandomWeights, make_plan

ROWS, VOCAB = 12, 1003
Change = Callable[[np.random.Generator], dict[str, object]]


def _batch(rng: np.random.Generator, **changes: object) -> SamplingBatch:
    batch = SamplingBatch(
        rows=rng.permutation(ROWS).astype(np.int32),
        temperature=rng.choice([0.0, 0.3, 1.0, 2.0], ROWS).astype(np.float32),
        seed=rng.integers(0, 2**64, ROWS, dtype=np.uint64),
        sequence_index=rng.integers(0, 4, ROWS).astype(np.uint32),
        position=rng.integers(0, 10**6, ROWS).astype(np.int32),
    )
    return replace(batch, **changes)  # type: ignore[arg-type]


def _lists(rng: np.random.Generator, most: int, values: bool = False) -> TokenLists:
    rows = [rng.integers(0, VOCAB, rng.integers(0, most)).tolist() for _ in range(ROWS)]
    return TokenLists.of(rows, [rng.normal(0, 8, len(row)).tolist() for row in rows] if values else None)


def _f32(rng: np.random.Generator, *choices: float) -> np.ndarray:
    return rng.choice(choices, ROWS).astype(np.float32)


def _penalties(rng: np.random.Generator) -> dict[str, object]:
    return {
        "repetition_penalty": _f32(rng, 1.0, 1.3, 0.7),
        "presence_penalty": _f32(rng, 0.0, 1.5),
        "frequency_penalty": _f32(rng, 0.0, 0.4),
        "prompt_tokens": _lists(rng, 300),
        "output_tokens": _lists(rng, 300),
    }


CHANGES: dict[str, Change] = {
    "temperature": lambda rng: {"temperature": _f32(rng, 0.0, 0.05, 1.0, 3.0)},
    "top_k": lambda rng: {"top_k": rng.choice([0, 1, 2, 40, VOCAB, VOCAB + 5], ROWS).astype(np.int32)},
    "top_p": lambda rng: {"top_p": _f32(rng, 1.0, 0.9, 0.5, 1e-6)},
    "min_p": lambda rng: {"min_p": _f32(rng, 0.0, 0.02, 0.5, 1.0)},
    "penalties": _penalties,
    "allowed": lambda rng: {"allowed": _lists(rng, 5)},
    "banned": lambda rng: {"banned": _lists(rng, 900)},
    "bias": lambda rng: {"bias": _lists(rng, 60, values=True)},
    "mask": lambda rng: {"mask": rng.integers(0, 2**32, (ROWS, -(-VOCAB // 32)), dtype=np.uint32)},
}


def _both(logits: np.ndarray, batch: SamplingBatch) -> tuple[list[int], list[int]]:
    before = logits.copy()
    drawn = sample(host_tensor(logits), batch, host_tensor)
    np.testing.assert_array_equal(logits, before)
    assert drawn.dtype == torch.int32
    return drawn.tolist(), numpy_sample(logits, batch).tokens.tolist()


def test_every_declared_feature_is_tried() -> None:
    assert set(CHANGES) == CAPABILITIES.device_sampling == set(FEATURES) - {"logprobs", "prompt_logprobs"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("feature", CHANGES)
def test_a_feature_alone(feature: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)
    ours, theirs = _both(logits, _batch(rng, **CHANGES[feature](rng)))
    assert ours == theirs


@pytest.mark.parametrize("seed", range(6))
def test_all_features_at_once(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    logits = np.round(rng.normal(0, 2, (ROWS, VOCAB)) * 2).astype(np.float32) / 2  # many ties
    changes = {name: value for change in CHANGES.values() for name, value in change(rng).items()}
    ours, theirs = _both(logits, _batch(rng, **changes))
    assert ours == theirs
    assert len(set(ours)) > 3


def test_a_row_drawn_several_times_by_several_sequences() -> None:
    rng = np.random.default_rng(5)
    batch = _batch(rng, rows=np.zeros(ROWS, np.int32), temperature=np.ones(ROWS, np.float32))
    ours, theirs = _both(rng.normal(0, 1, (2, VOCAB)).astype(np.float32), batch)
    assert ours == theirs
    assert len(set(ours)) > 6


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = np.zeros((ROWS, VOCAB), np.float32)
    logits[:, [7, 900]] = 3.0
    batch = _batch(np.random.default_rng(0), temperature=np.zeros(ROWS, np.float32))
    assert sample(host_tensor(logits), batch, host_tensor).tolist() == [7] * ROWS


def test_nothing_to_draw_and_broken_logits_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (ROWS, VOCAB)).astype(np.float32)
    logits[2, 5], logits[3, 6] = np.nan, np.inf
    rows = np.arange(ROWS, dtype=np.int32)
    mask = np.full((ROWS, -(-VOCAB // 32)), 2**32 - 1, np.uint32)
    mask[1], mask[2] = 0, 0
    tokens = sample(host_tensor(logits), _batch(rng, rows=rows, mask=mask), host_tensor).tolist()
    assert tokens[1:4] == [NO_TOKEN, NOT_FINITE, NOT_FINITE]
    assert min(tokens[:1] + tokens[4:]) >= 0


def test_philox_words_are_the_cores() -> None:
    rng = np.random.default_rng(2)
    words = rng.integers(0, 2**32, (6, 500), dtype=np.uint32)
    words[:, :2] = [[0, 2**32 - 1]] * 6
    expected = numpy_philox(tuple(words[:4]), tuple(words[4:]))  # type: ignore[arg-type]
    c0, c1, c2, c3, k0, k1 = (host_tensor(word.astype(np.int64)) for word in words)
    for ours, theirs in zip(philox4x32((c0, c1, c2, c3), (k0, k1)), expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.astype(np.int64))


def test_gumbel_noise_is_the_cores_to_the_last_bits() -> None:
    seed, index, position = np.array([2**63 + 12345, 7], np.uint64), np.array([3, 0]), np.array([17, 2**31 - 1])
    low, high = (host_tensor(half.astype(np.int64)) for half in (seed & np.uint64(2**32 - 1), seed >> np.uint64(32)))
    ours = gumbel((low, high), host_tensor(index), host_tensor(position), VOCAB).numpy()
    np.testing.assert_allclose(ours, gumbel_all(seed, index, position, VOCAB), rtol=3e-6, atol=1e-6)


# ---- through the executor -----------------------------------------------------------------------------------


def _driver(**changes: object) -> Driver:
    plan = make_plan(**changes)
    executor = quire_create_executor("torch", plan)
    executor.load(RandomWeights(plan.model), lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={"kv": 20}))
    return Driver(executor)


def _line() -> Line:
    return Line([3, 14, 15, 9, 26, 5], {"full": [3, 1, 4], "sliding": [9, 2, 6]})


def _drawing(num_rows: int, last: int, position: int) -> SamplingBatch:
    return SamplingBatch(
        rows=np.full(num_rows, last, np.int32),
        temperature=np.full(num_rows, 1.5, np.float32),
        seed=np.full(num_rows, 11, np.uint64),
        sequence_index=np.arange(num_rows, dtype=np.uint32),
        position=np.full(num_rows, position, np.int32),
    )


def test_tokens_in_flight_feed_the_next_step() -> None:
    """The overlapped step gets its token on the device and draws what it draws when the token is known."""
    known, overlapped = (_driver(return_logits=False, max_logits_rows=16) for _ in range(2))
    first = known.batch([(_line(), 6)], sampling=_drawing(3, 5, 6))
    tokens = known.executor.submit(first).result().tokens[:, 0]
    line = Line([*_line().tokens, int(tokens[1])], _line().tables, num_computed=6)
    expected = known.executor.submit(known.batch([(line, 1)], step=1, sampling=_drawing(2, 0, 7))).result().tokens
    pending = overlapped.executor.submit(first)
    second = overlapped.batch(
        [(line, 1)],
        step=1,
        sampling=_drawing(2, 0, 7),
        token_ids=np.array([-1], np.int32),
        prev_row=np.array([1], np.int32),
    )
    following = overlapped.executor.submit(second)
    np.testing.assert_array_equal(pending.result().tokens[:, 0], tokens)
    np.testing.assert_array_equal(following.result().tokens, expected)


@pytest.mark.parametrize("max_logits_rows", [2, 16])
def test_slices_and_logits_that_are_returned_change_no_token(max_logits_rows: int) -> None:
    driver = _driver(max_logits_rows=max_logits_rows)
    batch = driver.batch([(_line(), 6)], sampling=replace(_drawing(6, 0, 6), rows=np.arange(6, dtype=np.int32)))
    result = driver.executor.submit(batch).result()
    assert result.logits is not None
    assert batch.sampling is not None
    np.testing.assert_array_equal(result.tokens[:, 0], numpy_sample(result.logits, batch.sampling).tokens)


def test_log_probabilities_are_left_to_the_host() -> None:
    driver = _driver()
    sampling = replace(_drawing(1, 5, 6), num_logprobs=np.array([2], np.int32))
    result = driver.executor.submit(driver.batch([(_line(), 6)], sampling=sampling)).result()
    assert result.logprobs is not None
    assert result.logits is not None
    assert result.tokens[0, 0] == numpy_sample(result.logits, sampling).tokens[0]


def test_broken_logits_are_said_of_their_row_only() -> None:
    driver, line = _driver(return_logits=False), _line()
    nan = {name: np.full((1, 1, BLOCK, KV_HEADS, HEAD_DIM), np.nan, np.float32) for name in "kv"}
    driver.executor.submit(driver.batch([(line, 4)])).result()
    driver.executor.write_blocks("full", np.array([3], np.int32), nan)
    line.num_computed = 4
    healthy = replace(_line(), tables={"full": [7, 5, 8], "sliding": [10, 11, 12]})
    tokens = driver.executor.submit(driver.batch([(line, 2), (healthy, 3)])).result().tokens[:, 0]
    alone = _driver(return_logits=False)
    expected = alone.executor.submit(alone.batch([(healthy, 3)])).result().tokens[0, 0]
    assert tokens.tolist() == [NOT_FINITE, expected]
