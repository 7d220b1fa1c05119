"""Rows sampled natively, rows sampled by the host, prompt log-probabilities: the same result as the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.device.batch import StepBatch, StepResult
from quire.sampling.batch import SamplingBatch, TokenLists
from quire_cpu.row_split import RowSplit
from tests.backends.cpu.devices import BLOCK_SIZE, cpu_plan, executor_of
from tests.device.conftest import Driver, Line, greedy, make_plan

LENGTHS = (5, 1, 9, 4)
ROWS = np.cumsum(LENGTHS).astype(np.int32) - 1


def run(device: str, sampling: SamplingBatch, **changes: Any) -> StepResult:
    plan = cpu_plan(**changes) if device == "cpu" else make_plan(block_size=BLOCK_SIZE)
    driver = Driver(executor_of(device, plan))
    lines = [
        Line([(7 * i + j) % 50 for j in range(length)], {"full": [i], "sliding": [i + 8]})
        for i, length in enumerate(LENGTHS)
    ]
    batch = driver.batch([(line, length) for line, length in zip(lines, LENGTHS, strict=True)], sampling=sampling)
    result = driver.executor.submit(batch).result()
    driver.executor.close()
    return result


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


BASE = replace(greedy(4, [5, 1, 9, 4]), rows=ROWS)
CASES = {
    "greedy": BASE,
    "one row by temperature": replace(BASE, temperature=f32(0, 1, 0, 0)),
    "all rows by temperature": replace(BASE, temperature=f32(1, 1, 0.5, 2), top_k=np.array([0, 3, 9, 5], np.int32)),
    "penalties of one row": replace(
        BASE,
        presence_penalty=f32(0, 0, 2, 0),
        frequency_penalty=f32(0, 0, 1, 0),
        repetition_penalty=f32(1, 1, 1, 1),
        output_tokens=TokenLists.of([[], [], [3, 4], []]),
    ),
    "banned in one row": replace(BASE, banned=TokenLists.of([[], [1, 2], [], []])),
    "log-probabilities of two rows": replace(BASE, num_logprobs=np.array([-1, 3, -1, 0], np.int32)),
    "prompt log-probabilities": replace(
        BASE,
        prompt_rows=np.array([0, 1, 7], np.int32),
        prompt_targets=np.array([4, 5, 6], np.int32),
        prompt_num_logprobs=np.array([2, 0, 1], np.int32),
    ),
}


@pytest.mark.parametrize("return_logits", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_result_is_that_of_the_reference(case: str, return_logits: bool) -> None:
    found, expected = run("cpu", CASES[case], return_logits=return_logits), run("reference", CASES[case])
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.num_emitted, expected.num_emitted)
    assert (found.logits is not None) == return_logits
    for name in ("logprobs", "prompt_logprobs"):
        rows, expected_rows = getattr(found, name), getattr(expected, name)
        assert (rows is None) == (expected_rows is None)
        if rows is not None:
            asked = expected_rows.logprobs > -np.inf
            if name == "logprobs" and CASES[case].num_logprobs is not None:
                asked &= (CASES[case].num_logprobs >= 0)[:, None]
            np.testing.assert_array_equal(rows.token_ids[asked], expected_rows.token_ids[asked])
            np.testing.assert_allclose(rows.logprobs[asked], expected_rows.logprobs[asked], atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_native_draws_are_those_of_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = replace(
        BASE,
        temperature=rng.uniform(0.2, 2, 4).astype(np.float32),
        seed=rng.integers(0, 2**63, 4).astype(np.uint64),
        sequence_index=rng.integers(0, 4, 4).astype(np.uint32),
        position=rng.integers(0, 60, 4).astype(np.int32),
        top_k=rng.integers(0, 52, 4).astype(np.int32) if seed % 2 else None,
        top_p=rng.uniform(0.1, 1, 4).astype(np.float32) if seed % 3 else None,
        min_p=rng.uniform(0, 0.3, 4).astype(np.float32) if seed % 4 == 3 else None,
    )
    split = RowSplit(one_token_batch(drawn), return_logits=False, vocab_size=40)
    assert not split.has_host_rows
    assert len(split.returned_rows) == 0
    np.testing.assert_array_equal(run("cpu", drawn).tokens, run("reference", drawn).tokens)


def one_token_batch(sampling: SamplingBatch) -> StepBatch:
    """A batch for `RowSplit`, which reads its sampling and the number of logits rows only."""
    return StepBatch(
        step=0,
        token_ids=np.array([1], np.int32),
        query_start_loc=np.array([0, 1], np.int32),
        num_computed=np.array([0], np.int32),
        prev_row=np.array([-1], np.int32),
        groups={},
        logits_indices=np.array([0], np.int32),
        sampling=sampling,
    )


def test_rows_of_a_mask_that_allows_everything_stay_native() -> None:
    full = np.full((4, 2), 0xFFFFFFFF, np.uint32)
    assert not RowSplit(one_token_batch(replace(BASE, mask=full)), return_logits=False, vocab_size=40).has_host_rows
    full[2, 0] = 5
    split = RowSplit(one_token_batch(replace(BASE, mask=full)), return_logits=False, vocab_size=40)
    assert split.sampled_rows.tolist() == [4, 5, -1, 18]
