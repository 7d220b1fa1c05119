"""Brings a plan's weights to JAX: stacked where layers are scanned, one shard for each rank, tied ones held once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import jax
import numpy as np

from quire.device.contract import LoadProgress, WeightSource
from quire.device.dtypes import numpy_dtype
from quire.errors import BackendError
from quire.graph.ir import Part, Source, Weight
from quire_tpu.program import StepProgram, Weights


class RankedWeights(Protocol):
    """A weight source that has every rank's weights: this executor is one process over all of them."""

    def for_rank(self, rank: int) -> WeightSource:
        """The source of one rank's cuts."""


class JaxWeightLoader:
    """Loads everything that a program takes.

    Attributes:
        device_bytes: bytes of the weights held, over all ranks.
    """

    def __init__(self, program: StepProgram, source: WeightSource, progress: LoadProgress) -> None:
        self._program, self._plan, self._progress = program, program.plan, progress
        self._sources = _sources_of_ranks(source, program.world_size)
        self._total_bytes = source.total_bytes * program.world_size
        self._held: dict[tuple[Source, str], jax.Array] = {}
        self._read_bytes = 0
        self.device_bytes = 0

    def load(self) -> Weights:
        """The weights in the program's form."""
        model = self._plan.model
        same = self._program.sharding(by_rank=False)
        return {
            "embed": self._bound([model.embed]),
            "segments": [
                [self._bound(segment.uses(body)) for body in range(segment.period)]
                for segment in self._program.segments
            ],
            "heads": {name: self._bound([head]) for name, head in model.heads.items()},
            "rope": [
                (jax.device_put(cos, same), jax.device_put(sin, same)) for cos, sin in self._program.rope_tables()
            ],
        }

    def _bound(self, parts: Sequence[Part]) -> dict[str, jax.Array]:
        """Weights by local name; of several equal parts stacked [repeats, ...]."""
        return {name: self._put([part.graph.weights[name] for part in parts]) for name in parts[0].graph.weights}

    def _put(self, weights: Sequence[Weight]) -> jax.Array:
        key = weights[0].source, "float32" if weights[0].keep_f32 else self._plan.weight_dtype
        if len(weights) > 1:
            return self._new(weights, key[1])
        if key not in self._held:
            self._held[key] = self._new(weights, key[1])
        return self._held[key]

    def _new(self, weights: Sequence[Weight], dtype: str) -> jax.Array:
        shards = [self._shard(source, weights, dtype) for source in self._sources]
        self.device_bytes += sum(shard.nbytes for shard in shards)
        if len(shards) == 1:
            where = self._program.weight_format(len(weights[0].shape), len(weights), shards[0].dtype)
            return jax.device_put(shards[0], where)
        placed = [
            jax.device_put(shard[None], device) for shard, device in zip(shards, self._program.devices, strict=True)
        ]
        return jax.make_array_from_single_device_arrays(
            (len(shards), *shards[0].shape), self._program.sharding(by_rank=True), placed
        )

    def _shard(self, source: WeightSource, weights: Sequence[Weight], dtype: str) -> np.ndarray:
        """One rank's array, a copy of its own."""
        arrays = []
        for weight in weights:
            array = source.read(weight)
            self._read_bytes += array.nbytes
            self._progress(self._read_bytes, max(self._read_bytes, self._total_bytes))
            arrays.append(np.array(array, dtype=numpy_dtype(dtype), order="C"))
        return arrays[0] if len(arrays) == 1 else np.stack(arrays)


def _sources_of_ranks(source: WeightSource, world_size: int) -> list[WeightSource]:
    if world_size == 1:
        return [source]
    if not hasattr(source, "for_rank"):
        raise BackendError(
            f"weights for {world_size} ranks",
            because="this weight source has those of one rank only",
            hint="--tensor-parallel-size 1",
        )
    return [cast(RankedWeights, cast(Any, source)).for_rank(rank) for rank in range(world_size)]
