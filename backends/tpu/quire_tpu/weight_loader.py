"""Brings a plan's weights to JAX: stacked where layers are scanned, one shard for each rank, tied ones held once."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from quire.device.contract import LoadProgress, WeightSource
from quire.device.dtypes import numpy_dtype
from quire.device.plan_weights import PlanWeight, plan_weights
from quire.device.weight_stream import WeightStream
from quire.graph.ir import Part
from quire_tpu.program import StepProgram, Weights


class _Slot:
    """A place in the program's weights: one layer's weight, or those of equal layers, stacked [repeats, ...].

    Attributes:
        array: on the device, once every layer's weight was given.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.array: jax.Array | None = None
        self._shards: list[np.ndarray] = []
        self._missing = repeats

    def fill(self, index: int, shards: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Takes one layer's weight, a shard for each rank; gives the whole stack's shards with the last one."""
        if not self._shards:
            self._shards = [np.empty((self.repeats, *shard.shape), shard.dtype) for shard in shards]
        for stacked, shard in zip(self._shards, shards, strict=True):
            stacked[index] = shard
        self._missing -= 1
        if self._missing:
            return None
        stacks, self._shards = self._shards, []
        return stacks


class JaxWeightLoader:
    """Loads everything that a program takes.

    Attributes:
        device_bytes: bytes of the weights held, over all ranks.
    """

    def __init__(self, program: StepProgram, source: WeightSource, progress: LoadProgress) -> None:
        self._program, self._plan = program, program.plan
        self._slots: list[_Slot] = []
        self._place: dict[tuple[int, str], tuple[int, int]] = {}  # id of a part, name -> number of a slot, layer in it
        self._num_ranks = program.world_size
        self._source, self._progress = source, progress
        self.device_bytes = 0

    def load(self) -> Weights:
        """The weights in the program's form."""
        model = self._plan.model
        same = self._program.sharding(by_rank=False)
        embed = self._slots_of([model.embed])
        segments = [
            [self._slots_of(segment.uses(body)) for body in range(segment.period)] for segment in self._program.segments
        ]
        heads = {name: self._slots_of([head]) for name, head in model.heads.items()}
        self._fill()
        return {
            "embed": _arrays(embed),
            "segments": [[_arrays(slots) for slots in bodies] for bodies in segments],
            "heads": {name: _arrays(slots) for name, slots in heads.items()},
            "rope": [
                (jax.device_put(cos, same), jax.device_put(sin, same)) for cos, sin in self._program.rope_tables()
            ],
        }

    def _slots_of(self, parts: Sequence[Part]) -> dict[str, _Slot]:
        """A slot for each weight that the nodes of equal parts read, by local name."""
        slots: dict[str, _Slot] = {}
        for name in dict.fromkeys(name for node in parts[0].graph.nodes for name in node.weights if name):
            for layer, part in enumerate(parts):
                self._place[id(part), name] = len(self._slots), layer
            slots[name] = _Slot(len(parts))
            self._slots.append(slots[name])
        return slots

    def _fill(self) -> None:
        """In the order of the slots, so that one stack at a time is in host memory."""
        ordered = sorted(plan_weights(self._plan), key=lambda planned: self._places(planned)[0])
        for planned, reader in WeightStream(
            self._plan, self._source, self._progress, weights=ordered, all_ranks=self._num_ranks > 1
        ):
            dtype = numpy_dtype(planned.dtype)
            shards = [np.array(reader.array(rank), dtype=dtype, order="C") for rank in range(self._num_ranks)]
            tied: jax.Array | None = None
            for number, layer in self._places(planned):
                slot = self._slots[number]
                if slot.repeats > 1:
                    stacks = slot.fill(layer, shards)
                    if stacks is not None:
                        slot.array = self._put(stacks, len(planned.shape), slot.repeats)
                else:
                    tied = self._put(shards, len(planned.shape), 1) if tied is None else tied
                    slot.array = tied

    def _places(self, planned: PlanWeight) -> list[tuple[int, int]]:
        return sorted({self._place[id(use.part), use.name] for use in planned.uses})

    def _put(self, shards: Sequence[np.ndarray], weight_dims: int, repeats: int) -> jax.Array:
        self.device_bytes += sum(shard.nbytes for shard in shards)
        if len(shards) == 1:
            return jax.device_put(shards[0], self._program.weight_format(weight_dims, repeats, shards[0].dtype))
        placed = [
            jax.device_put(shard[None], device) for shard, device in zip(shards, self._program.devices, strict=True)
        ]
        return jax.make_array_from_single_device_arrays(
            (len(shards), *shards[0].shape), self._program.sharding(by_rank=True), placed
        )


def _arrays(slots: dict[str, _Slot]) -> dict[str, jax.Array]:
    return {name: slot.array for name, slot in slots.items() if slot.array is not None}
