"""Random weights in a model's shapes, for benchmarks and tests that need no checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from quire.errors import ConfigError
from quire.graph.ir import ModelGraph, OneOf, Source, Src, Weight
from quire.graph.shapes import concrete
from quire.graph.weight_centers import weight_centers
from quire.weights.expressions import RankCut, resolve, row_parts

DUMMY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

_SPREAD = 0.02
_BLOCK = 65537  # elements a tensor repeats; prime, so that no row length makes rows equal
_POOL = 2**20  # places in the drawn numbers where a tensor's block may start


class DummyWeights:
    """The contract's WeightSource over random numbers.

    Deterministic per tensor name and seed, so that all ranks hold cuts of one model. Matrices spread by 0.02
    around 0, norms around what leaves the scale alone, so that activations stay finite.

    Args:
        model: the graph this rank runs, before or after passes; cut by `quire.graph.shard` when world_size > 1.
        dtype: "float32", "bfloat16" or "float16".
    """

    fingerprint = ""
    """Random numbers are not worth recognising."""

    def __init__(
        self, model: ModelGraph, seed: int = 0, dtype: str = "bfloat16", rank: int = 0, world_size: int = 1
    ) -> None:
        if dtype not in DUMMY_DTYPES:
            raise ConfigError(f"dtype {dtype!r} for random weights", because=f"it is one of {', '.join(DUMMY_DTYPES)}")
        self._model, self._seed, self._dtype = model, seed, dtype
        self._rank, self._world_size = rank, world_size
        self._cut = RankCut(model.axes, rank, world_size)
        self._tensors = _RandomTensors(model, seed, DUMMY_DTYPES[dtype], self._cut.full_sizes)
        shapes = {weight.source: weight.shape for part in model.parts() for weight in part.graph.weights.values()}
        self.total_bytes = DUMMY_DTYPES[dtype].itemsize * sum(
            math.prod(concrete(shape, self._cut.local_sizes)) for shape in shapes.values()
        )

    def read(self, weight: Weight) -> np.ndarray:
        """The rank's array."""
        return self._array(weight.source)

    def read_quantized(self, weight: Weight) -> None:
        """None: random numbers are floating-point; a device that wants integers rounds them."""

    def pieces(self, weight: Weight) -> Iterator[np.ndarray]:
        """The rank's rows, in order, tensor by tensor."""
        for part in row_parts(weight.source, self._tensors, self._cut):
            yield self._array(part)

    def for_rank(self, rank: int) -> DummyWeights:
        """The source of another rank's cuts of the same numbers."""
        return (
            self if rank == self._rank else DummyWeights(self._model, self._seed, self._dtype, rank, self._world_size)
        )

    def _array(self, source: Source) -> np.ndarray:
        array = resolve(source, self._tensors, self._cut)
        array.setflags(write=False)
        return array


class _RandomTensors:
    """Every tensor that the model's sources name, in the shape they give it after their views."""

    def __init__(self, model: ModelGraph, seed: int, dtype: np.dtype[Any], sizes: Mapping[str, int]) -> None:
        self._dtype, self._sizes = dtype, sizes
        self._drawn = np.random.default_rng(seed).standard_normal(_POOL + _BLOCK, np.float32) * np.float32(_SPREAD)
        self._names: set[str] = set()
        self._centers = weight_centers(model)
        for part in model.parts():
            for weight in part.graph.weights.values():
                self._names.update(tensor.name for tensor in _first_options(weight.source))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of all of them."""
        return self._dtype

    def array(self, source: Src) -> np.ndarray:
        """The uncut array of a source."""
        shape = concrete(source.shape, self._sizes)
        count = math.prod(shape)
        start = zlib.crc32(f"{source.name}|{source.view}".encode()) % _POOL
        block = self._drawn[start : start + min(count, _BLOCK)]
        return np.resize((block + np.float32(self._centers.get(source.name, 0.0))).astype(self._dtype), shape)


def _first_options(source: Source) -> list[Src]:
    if isinstance(source, Src):
        return [source]
    children = source.options[:1] if isinstance(source, OneOf) else source.parts
    return [tensor for child in children for tensor in _first_options(child)]
