"""Which rows of a step the device samples and which the host does.

Greedy rows and rows with temperature, top_k, top_p and min_p are sampled natively, without handing their logits out.
Rows with any other feature, and prompt rows whose log-probabilities are asked for, come to the host and go through
`quire.sampling.sampler`, the definition.

Shapes here: R sampled rows, P prompt rows, L logits rows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.device.sliced_sampling import part_of_batch
from quire.sampling.batch import F32, FEATURES, I32, LogprobRows, SamplingBatch

NATIVE_FEATURES = frozenset({"temperature", "top_k", "top_p", "min_p"})
"""Of `quire.sampling.batch.FEATURES`."""

_HOST_FIELDS = tuple(
    field
    for feature, fields in FEATURES.items()
    if feature not in NATIVE_FEATURES | {"prompt_logprobs"}
    for field in fields
)

_NOTHING = np.empty(0, np.int32)


class RowSplit:
    """The rows of one step.

    Attributes:
        sampled_rows: int32 [R], logits row of each row that is sampled natively, -1 = the host samples this one.
        draws: temperature, top_k, top_p, min_p, seed, sequence_index, position, each [R]; None = all native rows are
            greedy.
        returned_rows: int32, logits rows that the host needs, each once.
        needs_head: any logits are needed at all.
        has_host_rows: some sampled row is left to the host.
    """

    def __init__(self, batch: StepBatch, *, return_logits: bool, vocab_size: int) -> None:
        sampling = batch.sampling
        self._sampling, self._return_logits, self._vocab_size = sampling, return_logits, vocab_size
        self._host = _NOTHING if sampling is None else _host_rows(sampling)
        self.has_host_rows = len(self._host) > 0
        self.sampled_rows = _NOTHING if sampling is None else sampling.rows
        self.draws = None if sampling is None else _draws(sampling)
        if self.has_host_rows:
            self.sampled_rows = self.sampled_rows.copy()
            self.sampled_rows[self._host] = -1
        if return_logits:
            self.returned_rows = np.arange(len(batch.logits_indices), dtype=np.int32)
        else:
            self.returned_rows = self._host_logits_rows()
        self.needs_head = return_logits or sampling is not None

    def result(self, tokens: I32, logits: F32 | None) -> StepResult:
        """The step's result from native tokens [R] (-1 for the host's rows) and the returned rows' logits, if any."""
        kept = None
        if self._return_logits:
            kept = np.empty((0, self._vocab_size), np.float32) if logits is None else logits
        sampling = self._sampling
        if sampling is None:
            return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), logits=kept)
        logprobs = prompt_logprobs = None
        if logits is not None and (self.has_host_rows or sampling.prompt_rows is not None):
            from quire.sampling.sampler import sample  # here, so that greedy serving never imports it

            drawn = sample(logits, self._host_batch(sampling))
            tokens = tokens.copy()
            tokens[self._host] = drawn.tokens
            logprobs = _spread(drawn.logprobs, self._host, sampling.num_rows)
            prompt_logprobs = drawn.prompt_logprobs
        return StepResult(tokens.reshape(-1, 1), _one_each(len(tokens)), logprobs, prompt_logprobs, kept)

    def _host_logits_rows(self) -> I32:
        if self._sampling is None or not (self.has_host_rows or self._sampling.prompt_rows is not None):
            return _NOTHING
        rows = self._sampling.rows[self._host]
        if self._sampling.prompt_rows is not None:
            rows = np.concatenate([rows, self._sampling.prompt_rows])
        return np.unique(rows).astype(np.int32)

    def _host_batch(self, sampling: SamplingBatch) -> SamplingBatch:
        """The host's rows, renumbered to the returned logits."""
        num_prompt = 0 if sampling.prompt_rows is None else len(sampling.prompt_rows)
        part = part_of_batch(sampling, self._host, np.arange(num_prompt, dtype=np.int32), 0)
        prompt_rows = None if part.prompt_rows is None else self._renumbered(part.prompt_rows)
        return replace(part, rows=self._renumbered(part.rows), prompt_rows=prompt_rows)

    def _renumbered(self, rows: I32) -> I32:
        return np.searchsorted(self.returned_rows, rows).astype(np.int32)


@lru_cache(maxsize=64)
def _one_each(num_rows: int) -> I32:
    return np.ones(num_rows, np.int32)


def _host_rows(sampling: SamplingBatch) -> I32:
    """int32: rows that need a feature which only the host has."""
    if all(getattr(sampling, field) is None for field in _HOST_FIELDS):
        return _NOTHING  # nearly every step; nothing more is looked at, since Python's time delays the next one
    plain = np.ones(sampling.num_rows, bool)
    for values, default in (
        (sampling.repetition_penalty, 1.0),
        (sampling.presence_penalty, 0.0),
        (sampling.frequency_penalty, 0.0),
    ):
        if values is not None:
            plain &= values == default
    for lists in (sampling.allowed, sampling.banned, sampling.bias):
        if lists is not None:
            plain &= np.diff(lists.offsets) == 0
    if sampling.mask is not None:
        plain &= (sampling.mask == np.uint32(0xFFFFFFFF)).all(axis=1)
    if sampling.num_logprobs is not None:
        plain &= sampling.num_logprobs < 0
    return np.flatnonzero(~plain).astype(np.int32)


def _draws(sampling: SamplingBatch) -> tuple[np.ndarray, ...] | None:
    """What the native draw takes, absent features filled with what turns them off."""
    if not np.count_nonzero(sampling.temperature):
        return None

    def filled(values: np.ndarray | None, default: float, dtype: type) -> np.ndarray:
        if values is None:
            return np.full(sampling.num_rows, default, dtype)
        return np.ascontiguousarray(values, dtype)

    return (
        filled(sampling.temperature, 0, np.float32),
        filled(sampling.top_k, 0, np.int32),
        filled(sampling.top_p, 1, np.float32),
        filled(sampling.min_p, 0, np.float32),
        filled(sampling.seed, 0, np.uint64),
        filled(sampling.sequence_index, 0, np.uint32),
        filled(sampling.position, 0, np.int32),
    )


def _spread(rows: LogprobRows | None, places: I32, count: int) -> LogprobRows | None:
    """The host rows' log-probabilities at their places among all sampled rows."""
    if rows is None or len(places) == count:
        return rows
    width = rows.token_ids.shape[1]
    spread = LogprobRows(
        np.full((count, width), -1, np.int32), np.full((count, width), -np.inf, np.float32), np.zeros(count, np.int32)
    )
    spread.token_ids[places], spread.logprobs[places], spread.ranks[places] = rows.token_ids, rows.logprobs, rows.ranks
    return spread
