"""A submitted step of the JAX executor, and what it left on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quire.device.batch import StepBatch, StepResult, token_indices
from quire.device.sliced_sampling import SlicedSampler
from quire.errors import BackendError, InternalError, QuireError
from quire.sampling.batch import F32

if TYPE_CHECKING:
    from quire_tpu.executor import JaxExecutor


class StepOutputs:
    """A step's arrays on the device, and its result once it is read.

    Args:
        tokens: int32 [>= R] on the device, None = the host samples. logits: slices of `rows_per_slice` rows.
        keep: the logits are part of the result.
    """

    def __init__(self, batch: StepBatch, tokens: Any, logits: list[Any], rows_per_slice: int, keep: bool) -> None:
        self._batch, self.tokens, self._logits, self._keep = batch, tokens, logits, keep
        self._rows_per_slice = rows_per_slice

    def result(self) -> StepResult:
        """Waits for the device."""
        sampling, slices = self._batch.sampling, self._host_logits()
        kept = np.concatenate(slices) if self._keep else None
        if sampling is None:
            return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32), logits=kept)
        ones = np.ones(sampling.num_rows, np.int32)
        if self.tokens is not None:
            tokens = np.asarray(self.tokens)[: sampling.num_rows]
            return StepResult(tokens[:, None], ones, logits=kept)
        sampler = SlicedSampler(sampling)
        for number, logits in enumerate(slices):
            sampler.add(number * self._rows_per_slice, logits)
        drawn = sampler.result()
        return StepResult(
            drawn.tokens[:, None], ones, logprobs=drawn.logprobs, prompt_logprobs=drawn.prompt_logprobs, logits=kept
        )

    def _host_logits(self) -> list[F32]:
        """The slices without padding rows."""
        left = len(self._batch.logits_indices)
        slices = []
        for array in self._logits:
            slices.append(np.asarray(array, np.float32)[:left])
            left -= len(slices[-1])
        return slices


class PendingStep:
    """A submitted step; implements `Pending`."""

    def __init__(self, executor: JaxExecutor, batch: StepBatch) -> None:
        self._executor, self._batch = executor, batch
        self._outputs: StepOutputs | None = None
        self._result: StepResult | None = None
        self._error: BackendError | None = None
        self._tokens: Any = None

    def start(self, previous: PendingStep | None) -> None:
        """Dispatches the step; an error is kept for `result`."""
        try:
            batch, feedback = self._fed(previous)
            self._outputs = self._executor.run(batch, feedback)
            self._tokens = self._outputs.tokens
        except Exception as error:
            self._error = self._failed(error)

    def result(self) -> StepResult:
        """Waits for the step and returns its result; raises BackendError when it failed."""
        if self in self._executor.unread:
            self._executor.unread.remove(self)
        if self._outputs is not None:
            try:
                self._result = self._outputs.result()
            except Exception as error:
                self._error = self._failed(error)
            self._outputs = None
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _fed(self, previous: PendingStep | None) -> tuple[StepBatch, Any]:
        """The batch and the tokens that its ids of -1 stand for: on the device, or filled in here."""
        batch, nothing = self._batch, self._executor.no_tokens
        places = np.flatnonzero(batch.token_ids < 0)
        if len(places) == 0:
            return batch, nothing
        rows = batch.prev_row[token_indices(batch)[0][places]]
        if previous is None or (rows < 0).any():
            raise InternalError(f"step {batch.step}: a token id of -1 has no row in the step before")
        if previous._tokens is not None:
            return batch, previous._tokens
        filled = batch.token_ids.copy()
        filled[places] = np.maximum(previous._finished().tokens[rows, 0], 0)
        return replace(batch, token_ids=filled), nothing

    def _finished(self) -> StepResult:
        """The result, read early; `result` gives it again."""
        unread = self in self._executor.unread
        result = self.result()
        if unread:
            self._executor.unread.insert(0, self)
        return result

    def _failed(self, error: Exception) -> BackendError:
        if isinstance(error, BackendError):
            return error
        because = error.what if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
        failure = BackendError(
            f"step {self._batch.step} failed on device {self._executor.name}",
            because=because,
            hint="the traceback above; the engine can restart the executor",
        )
        failure.__cause__ = error
        return failure
