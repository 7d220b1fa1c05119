"""Weights for checks: random by tensor name, so that no checkpoint is needed, or given where they matter."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from quire.graph.ir import ModelGraph, Src, Weight
from quire.graph.shapes import concrete
from quire.graph.weight_centers import weight_centers
from quire.weights.expressions import RankCut, resolve, row_parts

_MATRIX_GAIN = 1.5  # large enough that every term of the computation shows in the logits


class RandomWeights:
    """A WeightSource in float32. Matrices keep the scale of what they multiply; norms spread around neutral.

    Args:
        model: before or after passes.
        given: tensor name -> array after the source's view, instead of random numbers.
        rank, world_size: whose cuts it gives, of a model that was sharded.
    """

    fingerprint = ""

    def __init__(
        self,
        model: ModelGraph,
        seed: int = 0,
        given: Mapping[str, np.ndarray] | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._model, self._seed, self._given, self._world_size = model, seed, given, world_size
        self._cut = RankCut(model.axes, rank, world_size)
        self._tensors = _Tensors(model, seed, given or {}, self._cut.full_sizes)
        shapes = {weight.source: weight.shape for part in model.parts() for weight in part.graph.weights.values()}
        self.num_elements = sum(math.prod(concrete(shape, self._cut.local_sizes)) for shape in shapes.values())
        self.total_bytes = 4 * self.num_elements

    def read(self, weight: Weight) -> np.ndarray:
        """The weight's array, read-only as a mapped file's would be."""
        array = resolve(weight.source, self._tensors, self._cut)
        array.setflags(write=False)
        return array

    def read_quantized(self, weight: Weight) -> None:
        """None: random numbers are floating-point; a device that wants integers rounds them."""

    def pieces(self, weight: Weight) -> Iterator[np.ndarray]:
        """The weight's rows, in order, tensor by tensor."""
        for part in row_parts(weight.source, self._tensors, self._cut):
            yield self.read(replace(weight, source=part))

    def for_rank(self, rank: int) -> RandomWeights:
        """Another rank's source."""
        return RandomWeights(self._model, self._seed, self._given, rank=rank, world_size=self._world_size)


class _Tensors:
    def __init__(self, model: ModelGraph, seed: int, given: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
        self._seed, self._given, self._sizes = seed, given, sizes
        self._centers = weight_centers(model)

    def __contains__(self, name: object) -> bool:
        return True

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def array(self, source: Src) -> np.ndarray:
        if source.name in self._given:
            return np.array(self._given[source.name], np.float32)
        shape = concrete(source.shape, self._sizes)
        rng = np.random.default_rng([self._seed, zlib.crc32(f"{source.name}|{source.view}".encode())])
        drawn = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            return drawn * np.float32(0.3) + np.float32(self._centers.get(source.name, 0.0))
        return drawn * np.float32(_MATRIX_GAIN / math.sqrt(shape[-1]))
