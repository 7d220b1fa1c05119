"""Sampling by an op library on its device: the seam, and how a step's slices of logits become tokens through it.

An op library that declares `Capabilities.device_sampling` has the methods of `SamplingLibrary` as well. Then a
step's tokens stay on the device until somebody reads them, and the next step can take them from there.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np

from quire.device.contract import OpLibrary
from quire.device.sliced_sampling import part_of_batch, rows_inside
from quire.errors import InternalError
from quire.sampling.batch import I32, NO_TOKEN, NOT_FINITE, SamplingBatch, features_used

__all__ = ["NOT_FINITE", "DeviceSampler", "SamplingLibrary", "sampling_library"]


class SamplingLibrary(Protocol):
    """The optional half of an op library: it samples, and feeds what it sampled to the next step."""

    def sample(self, logits: Any, batch: SamplingBatch) -> Any:
        """One token for each row of the batch, int32 [R] on the device, without waiting for the device.

        Semantics are those of `quire.sampling.sampler.sample` for the features that the library declares; greedy
        always. NO_TOKEN where nothing is left to draw, NOT_FINITE where the row's logits hold NaN or +inf.

        Args:
            logits: float32 [L, V] on the device; must not be written to.
        """

    def fill_tokens(self, token_ids: I32, places: I32, tokens: Any, rows: I32) -> Any:
        """token_ids int32 [T] on the device with token_ids[places] = max(tokens[rows], 0); tokens are `sample`'s."""


def sampling_library(library: OpLibrary, batch: SamplingBatch | None) -> SamplingLibrary | None:
    """The library where it samples all that the batch asks for, None where the host has to."""
    if batch is None or not hasattr(library, "sample"):
        return None
    return cast(SamplingLibrary, library) if features_used(batch) <= library.capabilities.device_sampling else None


class DeviceSampler:
    """Samples a step's logits slice by slice on the device; the counterpart of `SlicedSampler`."""

    def __init__(self, library: SamplingLibrary, batch: SamplingBatch) -> None:
        self._library, self._batch = library, batch
        self._slices: list[tuple[I32, Any]] = []

    def add(self, start: int, num_rows: int, logits: Any) -> None:
        """Samples the rows that lie in logits rows [start, start + num_rows)."""
        rows = rows_inside(self._batch.rows, start, num_rows)
        if len(rows):
            part = part_of_batch(self._batch, rows, np.empty(0, np.int32), start)
            self._slices.append((rows, self._library.sample(logits, part)))

    def device_tokens(self) -> Any | None:
        """int32 [R] on the device, or None where the rows were not all in one slice."""
        return self._slices[0][1] if len(self._slices) == 1 else None

    def tokens(self, get: Any) -> I32:
        """int32 [R] on the host, fetched by `get`."""
        tokens = np.full(self._batch.num_rows, NO_TOKEN, np.int32)
        num_sampled = 0
        for rows, part in self._slices:
            tokens[rows] = get(part)
            num_sampled += len(rows)
        if num_sampled != self._batch.num_rows:
            missing = self._batch.num_rows - num_sampled
            raise InternalError(f"{missing} sampled rows are not among the step's logits rows")
        return tokens
