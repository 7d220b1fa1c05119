"""The one reader of a plan's weights: each comes once, with its uses, and the bytes read are counted here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from quire.device.contract import ExecutorPlan
from quire.device.plan_weights import PlanWeight, plan_weights
from quire.device.weight_source import LoadProgress, WeightPiece, WeightSource
from quire.weights.schemes import QuantizedMatrix, WeightScheme, quantize


class WeightStream:
    """Iterates over (PlanWeight, WeightReader): what to hold, and the way to read it.

        for planned, reader in WeightStream(plan, source, progress):
            array = to_device(reader.array())
            for use in planned.uses:
                ...

    A weight that several nodes read comes once. Read one of the reader's forms, once, before going on to the next
    weight: every read is counted.

    Args:
        progress: called with what was read after each read; the total is at least the source's `total_bytes`.
        weights: in the order in which they shall come; None = `plan_weights(plan)`.
        all_ranks: the executor drives every rank of `plan.parallel`; else the source is its own rank's.
    Raises BackendError when all ranks are asked of a source that has one.
    """

    def __init__(
        self,
        plan: ExecutorPlan,
        source: WeightSource,
        progress: LoadProgress,
        *,
        weights: Sequence[PlanWeight] | None = None,
        all_ranks: bool = False,
    ) -> None:
        num_ranks = plan.parallel.world_size if all_ranks else 1
        self._sources = [source] if num_ranks == 1 else [_of_rank(source, rank) for rank in range(num_ranks)]
        self._weights = plan_weights(plan) if weights is None else weights
        self._progress = progress
        self._read_bytes, self._total_bytes = 0, num_ranks * source.total_bytes

    def __iter__(self) -> Iterator[tuple[PlanWeight, WeightReader]]:
        return ((planned, WeightReader(planned, self._sources, self._count)) for planned in self._weights)

    def _count(self, num_bytes: int) -> None:
        self._read_bytes += num_bytes
        self._progress(self._read_bytes, max(self._read_bytes, self._total_bytes))


class WeightReader:
    """One weight of a stream, in the form that the caller wants."""

    def __init__(self, planned: PlanWeight, sources: Sequence[WeightSource], count: Callable[[int], None]) -> None:
        self._weight, self._sources, self._count = planned.weight, sources, count

    def array(self, rank: int = 0) -> np.ndarray:
        """The whole array, as `WeightSource.read` gives it; `rank` where the stream has all ranks."""
        array = self._sources[rank].read(self._weight)
        self._count(array.nbytes)
        return array

    def matrix(self) -> QuantizedMatrix:
        """The whole weight in integers of its scheme, which is not plain: as they are stored, else rounded here."""
        matrix = self._sources[0].read_quantized(self._weight)
        if matrix is None:
            array = self.array()
            return quantize(array.reshape(-1, array.shape[-1]), WeightScheme.parse(self._weight.scheme))
        self._count(matrix.nbytes)
        return matrix

    def pieces(self) -> Iterator[WeightPiece]:
        """The weight part by part, as `WeightSource.pieces` gives it; `PlanWeight.matrices` sorts them by matrix."""
        source = self._sources[0]
        for piece in source.pieces(self._weight) if hasattr(source, "pieces") else _one_piece(source, self._weight):
            self._count(piece.nbytes)
            yield piece


_one_piece = WeightSource.pieces  # of sources that were written for contract 1.1


def _of_rank(source: WeightSource, rank: int) -> WeightSource:
    return source.for_rank(rank) if hasattr(source, "for_rank") else WeightSource.for_rank(source, rank)
