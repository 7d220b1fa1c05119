"""Samples a step whose logits come in slices of rows, so that all of them never exist at once.

Log-probabilities of a long prompt need every row's logits: 8192 rows of a vocabulary of 152k are 5 GB.
Shapes here: L logits rows of the step, R sampled rows, P prompt rows.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from quire.device.batch import StepResult
from quire.errors import InternalError
from quire.sampling.batch import F32, I32, NO_TOKEN, LogprobRows, SampleResult, SamplingBatch, TokenLists

_PROMPT_FIELDS = ("prompt_rows", "prompt_targets", "prompt_num_logprobs")


class SlicedSampler:
    """Collects what each slice draws. A row's draw depends on nothing but itself, so slicing changes no result."""

    def __init__(self, batch: SamplingBatch) -> None:
        self._batch = batch
        self._tokens = np.full(batch.num_rows, NO_TOKEN, np.int32)
        self._num_sampled = 0
        self._logprobs: list[tuple[I32, LogprobRows]] = []
        self._prompt_logprobs: list[tuple[I32, LogprobRows]] = []

    def add(self, start: int, logits: F32) -> None:
        """Samples the rows that lie in logits rows [start, start + len(logits))."""
        from quire.sampling.sampler import sample  # here, so that importing the contract stays light

        rows = rows_inside(self._batch.rows, start, len(logits))
        prompt_rows = rows_inside(self._batch.prompt_rows, start, len(logits))
        if len(rows) == 0 and len(prompt_rows) == 0:
            return
        drawn = sample(logits, part_of_batch(self._batch, rows, prompt_rows, start))
        self._tokens[rows] = drawn.tokens
        self._num_sampled += len(rows)
        if drawn.logprobs is not None:
            self._logprobs.append((rows, drawn.logprobs))
        if drawn.prompt_logprobs is not None:
            self._prompt_logprobs.append((prompt_rows, drawn.prompt_logprobs))

    def result(self) -> SampleResult:
        """As if all rows had been sampled at once; call when every slice has been added."""
        if self._num_sampled != self._batch.num_rows:
            missing = self._batch.num_rows - self._num_sampled
            raise InternalError(f"{missing} sampled rows are not among the step's logits rows")
        num_prompt_rows = 0 if self._batch.prompt_rows is None else len(self._batch.prompt_rows)
        return SampleResult(
            tokens=self._tokens,
            logprobs=_joined(self._logprobs, self._batch.num_rows),
            prompt_logprobs=_joined(self._prompt_logprobs, num_prompt_rows),
        )


def step_result(drawn: SampleResult | None, logits: F32 | None) -> StepResult:
    """A step's result from what the host sampled (None: the step asked for no token), one token a row."""
    if drawn is None:
        return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), logits=logits)
    return StepResult(
        tokens=drawn.tokens[:, None],
        num_emitted=np.ones(len(drawn.tokens), np.int32),
        logprobs=drawn.logprobs,
        prompt_logprobs=drawn.prompt_logprobs,
        logits=logits,
    )


def rows_inside(rows: I32 | None, start: int, count: int) -> I32:
    """Where `rows` is in [start, start + count): indices into it."""
    if rows is None:
        return np.empty(0, np.int32)
    return np.flatnonzero((rows >= start) & (rows < start + count)).astype(np.int32)


def part_of_batch(batch: SamplingBatch, rows: I32, prompt_rows: I32, start: int) -> SamplingBatch:
    """The sampled rows and prompt rows of one slice, renumbered from its start."""
    changes: dict[str, Any] = {}
    for name in (field.name for field in fields(batch)):
        value = getattr(batch, name)
        if name in _PROMPT_FIELDS:
            changes[name] = value[prompt_rows] if value is not None and len(prompt_rows) else None
        elif isinstance(value, TokenLists):
            changes[name] = _lists_of(value, rows)
        elif value is not None:
            changes[name] = value[rows]
    changes["rows"] = changes["rows"] - np.int32(start)
    if changes["prompt_rows"] is not None:
        changes["prompt_rows"] = changes["prompt_rows"] - np.int32(start)
    return replace(batch, **changes)


def _lists_of(lists: TokenLists, rows: I32) -> TokenLists:
    index = rows.tolist()
    values = None if lists.values is None else [lists.row_values(row).tolist() for row in index]
    return TokenLists.of([lists.row(row).tolist() for row in index], values)


def _joined(parts: list[tuple[I32, LogprobRows]], num_rows: int) -> LogprobRows | None:
    """One LogprobRows in the order of the batch's rows, as wide as the widest part."""
    if not parts:
        return None
    if len(parts) == 1 and len(parts[0][0]) == num_rows:
        return parts[0][1]
    width = max(part.token_ids.shape[1] for _, part in parts)
    joined = LogprobRows(
        np.full((num_rows, width), -1, np.int32),
        np.full((num_rows, width), -np.inf, np.float32),
        np.zeros(num_rows, np.int32),
    )
    for rows, part in parts:
        joined.token_ids[rows, : part.token_ids.shape[1]] = part.token_ids
        joined.logprobs[rows, : part.logprobs.shape[1]] = part.logprobs
        joined.ranks[rows] = part.ranks
    return joined
