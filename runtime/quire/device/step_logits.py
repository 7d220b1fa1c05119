"""A step's logits on their way to tokens: sampled on the device where the library can, else fetched, sampled here."""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.device.batch import StepResult
from quire.device.contract import OpLibrary
from quire.device.device_sampling import DeviceSampler, SamplingLibrary, sampling_library
from quire.device.sliced_sampling import SlicedSampler, step_result
from quire.sampling.batch import F32, SampleResult, SamplingBatch


class StepLogits:
    """Takes a step's slices of logits in order; a `quire.device.step_line.StartedStep` once it has all of them.

    Args:
        sampling: what to sample, or None.
        keep: the logits are part of the result.
    """

    def __init__(self, library: OpLibrary, sampling: SamplingBatch | None, *, keep: bool) -> None:
        self._library = library
        self._sampling_library = sampling_library(library, sampling)
        self._on_device: DeviceSampler | None = None
        self._on_host: SlicedSampler | None = None
        if sampling is not None and self._sampling_library is not None:
            self._on_device = DeviceSampler(self._sampling_library, sampling)
        elif sampling is not None:
            self._on_host = SlicedSampler(sampling)
        self._kept: list[F32] | None = [] if keep else None
        self._last: tuple[int, int, Any] | None = None  # first row, rows, device array of the slice not fetched yet

    def add(self, start: int, num_rows: int, logits: Any) -> None:
        """The slice of logits rows [start, start + num_rows), on the device; rows beyond are padding."""
        self.take_last()
        if self._on_device is not None:
            self._on_device.add(start, num_rows, logits)
        if self._on_host is not None or self._kept is not None:
            self._last = start, num_rows, logits

    def take_last(self) -> None:
        """Waits for the last slice, if somebody on the host needs it."""
        if self._last is None:
            return
        start, num_rows, array = self._last
        self._last = None
        logits = np.asarray(self._library.get(array), np.float32)[:num_rows]
        if self._on_host is not None:
            self._on_host.add(start, logits)
        if self._kept is not None:
            self._kept.append(logits)

    @property
    def tokens(self) -> tuple[SamplingLibrary, Any] | None:
        """The library that sampled, and the tokens int32 [R] as it holds them; None where they are not all there."""
        tokens = None if self._on_device is None else self._on_device.device_tokens()
        return None if self._sampling_library is None or tokens is None else (self._sampling_library, tokens)

    def finish(self) -> StepResult:
        """Waits for the device."""
        self.take_last()
        kept = None if not self._kept else self._kept[0] if len(self._kept) == 1 else np.concatenate(self._kept)
        if self._on_device is not None:
            return step_result(SampleResult(self._on_device.tokens(self._library.get)), kept)
        return step_result(None if self._on_host is None else self._on_host.result(), kept)
