"""Whole steps of a tiny model (a full and a sliding layer, tied embedding): bits do not depend on how work is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.device import NOT_FINITE
from quire.device.batch import StepBatch
from quire.device.contract import ExecutorPlan
from quire.errors import BackendError
from quire.graph.passes import optimize
from quire_cpu.options import BFLOAT16_KERNELS
from tests.backends.cpu.devices import BLOCK_SIZE, cpu_driver, cpu_plan, executor_of
from tests.device.conftest import Driver, Line, build_model, make_plan

PROMPT = [int(token) for token in np.random.default_rng(7).integers(0, 50, 45)]
OTHER = PROMPT[::-1]
TABLES = {"full": [3, 1, 4, 7], "sliding": [9, 2, 6, 5]}
OTHER_TABLES = {"full": [10, 0, 12, 17], "sliding": [13, 8, 15, 20]}
FUSED = optimize(build_model(), frozenset({"add_rms_norm", "rotary_cache_write"}))


def logits_alone(
    chunks: Sequence[int], tokens: list[int] = PROMPT, tables: Mapping[str, list[int]] = TABLES, **changes: Any
) -> np.ndarray:
    driver, line = cpu_driver(**changes), Line(list(tokens), dict(tables))
    for chunk in chunks:
        driver.step([(line, chunk)])
    driver.executor.close()
    return driver.logits_of(line)


def reference_logits(plan: ExecutorPlan) -> np.ndarray:
    driver, line = Driver(executor_of("reference", plan)), Line(list(PROMPT), dict(TABLES))
    driver.step([(line, len(PROMPT))])
    return driver.logits_of(line)


@pytest.mark.parametrize("model", [build_model(), FUSED], ids=["plain", "fused"])
def test_logits_are_those_of_the_reference(model: Any) -> None:
    expected = reference_logits(make_plan(block_size=BLOCK_SIZE))
    np.testing.assert_allclose(logits_alone([45], model=model), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kernels", ["avx512_bf16", "avx512_vnni", "avx512", "avx2", "portable"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_chunks_and_decode_give_the_bits_of_one_prefill(dtype: str, kernels: str) -> None:
    from quire_cpu import _native

    if kernels not in _native.available_kernels():
        pytest.skip(f"this machine has no {kernels} kernels")
    weight = "float32" if dtype == "int8" else dtype
    changes: dict[str, Any] = {
        "weight_dtype": weight,
        "kv_dtype": dtype,
        "model": FUSED,
        "options": {"kernels": kernels, "poison": "true", "threads": "2"},
        "act_dtype": "bfloat16" if kernels == BFLOAT16_KERNELS else "float32",
    }
    whole = logits_alone([45], **changes)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(logits_alone([1] * 45, **changes), whole)
    np.testing.assert_array_equal(logits_alone([7, 16, 1, 2, 19], **changes), whole)


@pytest.mark.parametrize("kv_dtype", ["float32", "int8"])
def test_a_batch_gives_each_sequence_the_bits_it_gets_alone(kv_dtype: str) -> None:
    driver = cpu_driver(kv_dtype=kv_dtype)
    first, second = Line(list(PROMPT), dict(TABLES)), Line(list(OTHER), dict(OTHER_TABLES))
    for chunks in ([(first, 9)], [(second, 20), (first, 1)], [(first, 30), (second, 2)], [(second, 23), (first, 5)]):
        driver.step(chunks)
    np.testing.assert_array_equal(driver.logits_of(first), logits_alone([45], kv_dtype=kv_dtype))
    np.testing.assert_array_equal(driver.logits_of(second), logits_alone([45], OTHER, kv_dtype=kv_dtype))


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_number_of_threads_changes_no_bit(threads: str) -> None:
    options = {"threads": threads, "poison": "true"}
    np.testing.assert_array_equal(logits_alone([20, 25], options=options), logits_alone([45]))


def test_the_head_in_slices_gives_the_same_bits() -> None:
    np.testing.assert_array_equal(logits_alone([45], max_logits_rows=1), logits_alone([45], max_logits_rows=64))


def test_blocks_that_left_the_window_are_not_read() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), {name: list(table) for name, table in TABLES.items()})
    driver.step([(line, 40)])
    line.tables["sliding"][:2] = [-1, -1]
    driver.step([(line, 5)])
    np.testing.assert_array_equal(driver.logits_of(line), logits_alone([45]))


def test_greedy_tokens_are_the_largest_logits() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    token = driver.step([(line, 45)])
    assert token.tolist() == [int(driver.logits_of(line)[-1].argmax())]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.array([1, 50], np.int32)}, "token id 50"),
        ({"num_computed": np.array([63], np.int32)}, "length is 65"),
        ({"logits_indices": np.array([2], np.int32)}, "logits index 2"),
        ({"query_start_loc": np.array([0, 1], np.int32)}, "query_start_loc"),
        ({"positions": np.array([0, 64], np.int32)}, "position 64"),
    ],
)
def test_a_batch_that_does_not_fit_fails_and_the_next_one_works(change: dict[str, np.ndarray], message: str) -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), dict(TABLES))
    wrong = driver.batch([(line, 2)], **change)
    with pytest.raises(BackendError, match=message):
        driver.executor.submit(wrong).result()
    driver.step([(line, 45)])
    np.testing.assert_array_equal(driver.logits_of(line), logits_alone([45]))


def test_block_ids_outside_the_cache_are_refused() -> None:
    driver, line = cpu_driver(), Line(list(PROMPT), {"full": [24], "sliding": [1]})
    with pytest.raises(BackendError, match="block id 24"):
        driver.executor.submit(driver.batch([(line, 2)])).result()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_logits_are_said_of_their_row_only(temperature: float) -> None:
    driver, alone = (cpu_driver(return_logits=False) for _ in range(2))
    broken, healthy, same = (Line(list(PROMPT), {"full": [block], "sliding": [block]}) for block in (3, 4, 4))
    broken.num_computed = 8  # of which nothing was ever written: the poison shows
    step = driver.executor.submit(drawing(driver.batch([(broken, 1), (healthy, 6)]), temperature))
    feeding = {"token_ids": np.array([-1, -1], np.int32), "prev_row": np.array([0, 1], np.int32)}
    broken.num_computed, healthy.num_computed = 9, 6
    after = driver.executor.submit(drawing(driver.batch([(broken, 1), (healthy, 1)], step=1, **feeding), temperature))
    tokens = step.result().tokens[:, 0]
    assert tokens[0] == NOT_FINITE
    expected = alone.executor.submit(drawing(alone.batch([(same, 6)]), temperature)).result().tokens[0, 0]
    assert tokens[1] == expected
    assert after.result().tokens[0, 0] == NOT_FINITE  # its -2 was not taken for a token
    assert after.result().tokens[1, 0] >= 0


def drawing(batch: StepBatch, temperature: float) -> StepBatch:
    """The batch with a temperature; rows of one position draw with one seed."""
    assert batch.sampling is not None
    rows = len(batch.sampling.rows)
    return replace(
        batch,
        sampling=replace(
            batch.sampling,
            temperature=np.full(rows, temperature, np.float32),
            seed=np.full(rows, 5, np.uint64),
            sequence_index=np.zeros(rows, np.uint32),
        ),
    )


def test_a_plan_beyond_the_capabilities_is_refused() -> None:
    with pytest.raises(BackendError, match="block size 4"):
        executor_of("cpu", cpu_plan(block_size=4))
