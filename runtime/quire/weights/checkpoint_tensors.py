"""A checkpoint's tensors as sources ask for them: with their views applied, and checked before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from quire.graph.ir import Src
from quire.graph.shapes import concrete
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.expressions import apply_view
from quire.weights.schemes import QuantizedMatrix

WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float64))


class CheckpointTensors:
    """Tensors of a checkpoint with each source's view applied."""

    def __init__(self, files: CheckpointFiles, axis_sizes: Mapping[str, int]) -> None:
        self.files, self.axis_sizes = files, axis_sizes

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's stored dtype; float32 for a quantized matrix."""
        return self.files.dtype(name)

    def array(self, source: Src) -> np.ndarray:
        """The uncut array after the view."""
        return apply_view(self.files.tensor(source.name), source.view, self.axis_sizes)

    def scheme(self, name: str) -> str:
        """ "plain", or the scheme of a quantized matrix."""
        return self.files.scheme(name)

    def quantized(self, name: str) -> QuantizedMatrix:
        """A quantized matrix, uncut, before any view."""
        return self.files.quantized(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, before any view."""
        return self.files.shape(name)

    def problem(self, source: Src) -> str:
        """What is wrong with the stored dtype or shape, or ""; nothing is read."""
        if self.dtype(source.name) not in WEIGHT_DTYPES:
            return f"{source.name} is stored as {self.dtype(source.name)}, which needs a quantization scheme"
        stored = self.files.shape(source.name)
        expected = concrete(source.shape, self.axis_sizes)
        try:
            found = apply_view(np.broadcast_to(np.int8(0), stored), source.view, self.axis_sizes).shape
        except (ValueError, IndexError) as error:
            return f"{source.name} is {list(stored)}, which does not fit config.json: {error}"
        if found == expected:
            return ""
        return f"{source.name} is {list(stored)}, config.json makes it {list(expected)}" + (
            f" where it gives {list(found)}" if source.view else ""
        )
