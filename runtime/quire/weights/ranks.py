"""Weights of every tensor-parallel rank, for executors that drive all of them from one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quire.graph.ir import Weight
from quire.weights.checkpoint import CheckpointWeights
from quire.weights.dummy import DummyWeights
from quire.weights.schemes import QuantizedMatrix

OpenRank = Callable[[int], CheckpointWeights | DummyWeights]


class AllRanks:
    """The contract's WeightSource for rank 0, which gives the other ranks' as well.

    Args:
        open_rank: makes the source of one rank; called once for each.
    """

    def __init__(self, open_rank: OpenRank) -> None:
        self._open_rank = open_rank
        self._first = open_rank(0)
        self.total_bytes = self._first.total_bytes

    @property
    def fingerprint(self) -> str:
        """Of the files, which all ranks share."""
        return self._first.fingerprint

    def read(self, weight: Weight) -> np.ndarray:
        """Rank 0's array."""
        return self._first.read(weight)

    def read_quantized(self, weight: Weight) -> QuantizedMatrix | None:
        """Rank 0's matrix in integers, or None."""
        return self._first.read_quantized(weight)

    def for_rank(self, rank: int) -> CheckpointWeights | DummyWeights:
        """The source of one rank's cuts."""
        return self._first if rank == 0 else self._open_rank(rank)
