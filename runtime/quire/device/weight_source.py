"""Where the weights of a plan come from, as a device sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from quire.errors import BackendError
from quire.graph.ir import Weight
from quire.weights.schemes import PLAIN, QuantizedMatrix

LoadProgress = Callable[[int, int], None]
"""Called as progress(bytes_done, bytes_total) while weights stream in."""

WeightPiece = np.ndarray | QuantizedMatrix
"""Some of a weight's rows: numbers in the dtype they are stored in, or integers of the weight's scheme."""


class WeightSource(Protocol):
    """Where weights come from. `quire.weights` implements it over checkpoints and random numbers.

    `WeightStream` reads one for you. A source that was written before `pieces` and `for_rank` works as one whose
    class inherits them from here.
    """

    total_bytes: int

    @property
    def fingerprint(self) -> str:
        """Differs when the weights do, for devices that keep what they made of them; "" = unknown.

        Since contract 1.1.
        """

    def read(self, weight: Weight) -> np.ndarray:
        """The weight's array for this rank, C-contiguous or strided, in its stored dtype (ml_dtypes for bf16).

        Often a read-only view of a mapped file: copy or convert, never write. Where the files hold integers they are
        dequantized to float32, whatever `weight.scheme`. Raises ModelError by name.
        """

    def read_quantized(self, weight: Weight) -> QuantizedMatrix | None:
        """The weight in integers of `weight.scheme`, which is not "plain"; since contract 1.1.

        Experts [E, N, K] come as one matrix [E * N, K]. None when the weight is stored in floating-point numbers: then
        `read` it and round (`quire.weights.schemes.quantize` says how). Raises ModelError by name, ConfigError when
        this rank's inputs would begin inside a group.
        """

    def pieces(self, weight: Weight) -> Iterator[WeightPiece]:
        """The weight part by part, as its tensors lie apart in the files, each read when it is asked for.

        The pieces' rows, in order, are the weight's: an array [..., K] holds rows of K; of a weight of one dimension
        a piece is some of its elements. All pieces are QuantizedMatrix where `read_quantized` gives one, else arrays.
        Unless a source says otherwise the weight is one piece. Raises as `read` and `read_quantized` do.

        Since contract 1.2.
        """
        matrix = None if weight.scheme == PLAIN else self.read_quantized(weight)
        yield self.read(weight) if matrix is None else matrix

    def for_rank(self, rank: int) -> WeightSource:
        """The source of another tensor-parallel rank, for an executor that drives all ranks from one process.

        Raises BackendError unless a source says otherwise: it has the weights of one rank only. Since contract 1.2.
        """
        raise BackendError(
            f"weights of rank {rank}",
            because="this weight source has those of one rank only",
            hint="--tensor-parallel-size 1",
        )
