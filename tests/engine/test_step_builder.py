"""What the scheduler's plan becomes on its way to the device, seen by recording the batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quire.device.batch import StepBatch


def record(driver: Any, monkeypatch: Any) -> list[StepBatch]:
    batches: list[StepBatch] = []
    submit = type(driver.executor).submit

    def recording(self: Any, batch: StepBatch) -> Any:
        batches.append(batch)
        return submit(self, batch)

    monkeypatch.setattr(type(driver.executor), "submit", recording)
    return batches


def test_a_mixed_step_is_flat_and_exact(drive: Callable[..., Any], monkeypatch: Any) -> None:
    driver = drive(depth=1, budget=8)
    batches = record(driver, monkeypatch)
    driver.add("a", [1, 2, 3], max_tokens=4)
    driver.add("b", list(range(10, 20)), max_tokens=1)
    driver.run()
    first, second, third = batches[:3]
    assert first.token_ids.tolist() == [1, 2, 3, 10, 11, 12, 13, 14]
    assert first.query_start_loc.tolist() == [0, 3, 8]
    assert first.logits_indices.tolist() == [2]  # b's prompt is not done
    assert second.token_ids.tolist() == [4, 15, 16, 17, 18, 19]
    assert second.num_computed.tolist() == [3, 5]
    assert second.logits_indices.tolist() == [0, 5]
    assert second.sampling is not None
    assert second.sampling.position.tolist() == [4, 10]
    assert second.groups["full"].block_tables.shape == (2, 3)
    assert (second.groups["full"].block_tables[0] >= 0).tolist() == [True, False, False]
    assert third.token_ids.tolist() == [5]
    assert [batch.step for batch in batches] == [0, 1, 2, 3]
    for batch in batches:
        for array in (batch.token_ids, batch.query_start_loc, batch.num_computed, batch.prev_row, batch.logits_indices):
            assert array.dtype == np.int32


def test_tokens_in_flight_name_their_row(drive: Callable[..., Any], monkeypatch: Any) -> None:
    driver = drive(depth=2, budget=8)
    batches = record(driver, monkeypatch)
    driver.add("a", [1, 2], max_tokens=3)
    driver.add("b", [5, 6], max_tokens=3)
    driver.run()
    assert batches[0].prev_row.tolist() == [-1, -1]
    assert batches[1].token_ids.tolist() == [-1, -1]
    assert batches[1].prev_row.tolist() == [0, 1]


def test_forks_draw_from_one_logits_row_and_copy_their_tail(drive: Callable[..., Any], monkeypatch: Any) -> None:
    driver = drive(depth=2, budget=8)
    batches = record(driver, monkeypatch)
    driver.add("a", [1, 2, 3, 4, 5], n=3, max_tokens=2, temperature=1.0, seed=2)
    driver.run()
    first, second = batches
    assert first.logits_indices.tolist() == [4]
    assert first.sampling is not None
    assert first.sampling.rows.tolist() == [0, 0, 0]
    assert first.sampling.sequence_index.tolist() == [0, 1, 2]
    assert second.prev_row.tolist() == [0, 1, 2]
    assert len(second.copies["full"]) == 2


def test_prompt_rows_name_the_token_that_follows(drive: Callable[..., Any], monkeypatch: Any) -> None:
    driver = drive(depth=1, budget=8)
    batches = record(driver, monkeypatch)
    driver.add("a", [3, 1, 4, 1, 5, 9, 2, 6, 5, 3], prompt_logprobs=1, max_tokens=1)
    driver.run()
    first, second = (batch.sampling for batch in batches)
    assert first is not None
    assert second is not None
    assert (first.num_rows, second.num_rows) == (0, 1)
    assert first.prompt_targets.tolist() == [1, 4, 1, 5, 9, 2, 6, 5]
    assert second.prompt_targets.tolist() == [3]
    assert batches[1].logits_indices.tolist() == [0, 1]
    assert second.rows.tolist() == [1]
    assert second.prompt_rows.tolist() == [0]


def test_a_chunk_of_one_token_beside_forks_is_no_step_of_decoding(drive: Callable[..., Any], monkeypatch: Any) -> None:
    driver = drive(depth=1, long_prefill_token_threshold=1)
    batches = record(driver, monkeypatch)
    driver.add("forks", [1], n=2, max_tokens=1)
    driver.add("chunk", [5, 30, 20], max_tokens=1)
    driver.run()
    assert batches[0].token_ids.tolist() == [1, 5]
    assert batches[0].logits_indices.tolist() == [0]
    assert batches[0].sampling is not None
    assert batches[0].sampling.rows.tolist() == [0, 0]
