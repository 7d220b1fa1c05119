"""What a checkpoint offers, whatever its file format: named tensors, some of them quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from quire.weights.schemes import QuantizedMatrix


class CheckpointFiles(Protocol):
    """Named tensors of a checkpoint under the names that transformers gives them (`model.layers.0. ... .weight`).

    A matrix that the files hold in integers appears under the name and shape [out, in] of the weight it stands for;
    the tensors it is stored in do not appear.
    """

    @property
    def names(self) -> Iterable[str]:
        """Every tensor, in the order of the files."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""

    @property
    def dequantized(self) -> Mapping[str, str]:
        """Why no scheme takes a matrix that the files hold in integers, by its name; its `scheme` is plain."""

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape; of a quantized matrix the one it stands for. Raises ModelError for an unknown name."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's stored dtype; float32 for a quantized matrix."""

    def tensor(self, name: str) -> np.ndarray:
        """The array, read-only; a quantized matrix is dequantized to float32."""

    def scheme(self, name: str) -> str:
        """ "plain", or the name of the `WeightScheme` that `quantized` gives."""

    def quantized(self, name: str) -> QuantizedMatrix:
        """A matrix whose `scheme` is not plain, in integers."""
