"""What a step of the JAX executor left on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.device.sliced_sampling import SlicedSampler, step_result
from quire.sampling.batch import F32, SampleResult


class StepOutputs:
    """A step's arrays on the device, and its result once it is read; a `quire.device.step_line.StartedStep`.

    Args:
        tokens: int32 [>= R] on the device, None = the host samples. logits: slices of `rows_per_slice` rows.
        keep: the logits are part of the result.
    """

    def __init__(self, batch: StepBatch, tokens: Any, logits: list[Any], rows_per_slice: int, keep: bool) -> None:
        self._batch, self.tokens, self._logits, self._keep = batch, tokens, logits, keep
        self._rows_per_slice = rows_per_slice

    def finish(self) -> StepResult:
        """Waits for the device."""
        sampling, slices = self._batch.sampling, self._host_logits()
        kept = np.concatenate(slices) if self._keep else None
        if sampling is None:
            return step_result(None, kept)
        if self.tokens is not None:
            return step_result(SampleResult(np.asarray(self.tokens)[: sampling.num_rows]), kept)
        sampler = SlicedSampler(sampling)
        for number, logits in enumerate(slices):
            sampler.add(number * self._rows_per_slice, logits)
        return step_result(sampler.result(), kept)

    def _host_logits(self) -> list[F32]:
        """The slices without padding rows."""
        left = len(self._batch.logits_indices)
        slices = []
        for array in self._logits:
            slices.append(np.asarray(array, np.float32)[:left])
            left -= len(slices[-1])
        return slices
