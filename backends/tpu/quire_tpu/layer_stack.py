"""The layers as a few bodies: equal ones are scanned by period, with stacked weights; the others are run one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from quire.graph.interpret import PartRunner
from quire.graph.ir import Part
from quire.graph.segments import segments
from quire_tpu.lowering import JaxKernel
from quire_tpu.step_state import StackedCache, StepState

Kernels = Mapping[int, tuple[JaxKernel, ...]]
"""id of a part -> its nodes' kernels."""

Storages = dict[str, dict[str, jax.Array]]
"""Storage name -> array name -> [layers, blocks + 1, block_size, KV * d]."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`repeats` times the same `period` layers.

    Attributes:
        layers: all of them in order; layer `r * period + j` is the r-th use of body `j`.
    """

    layers: tuple[Part, ...]
    period: int
    repeats: int

    def uses(self, body: int) -> tuple[Part, ...]:
        """The layers that body `body` stands for."""
        return self.layers[body :: self.period]


def cut_into_segments(layers: Sequence[Part]) -> tuple[Segment, ...]:
    """The layers' segments in order."""
    found, start = [], 0
    for period, repeats in segments(layers):
        stop = start + period * repeats
        found.append(Segment(tuple(layers[start:stop]), period, repeats))
        start = stop
    return tuple(found)


@dataclass(frozen=True, slots=True)
class LayerRunner:
    """Runs parts on an environment of boundary values and on the storages of all KV groups.

    Attributes:
        storage_of: KV group -> the storage that holds its layer slots.
    """

    kernels: Kernels
    storage_of: Mapping[str, str]

    def part(
        self,
        part: Part,
        weights: Mapping[str, jax.Array],
        environment: Mapping[str, Any],
        storages: Storages,
        state: StepState,
        slots: Mapping[str, jax.Array | int] | None = None,
    ) -> tuple[dict[str, Any], Storages]:
        """A part's outputs without its caches, and the storages after it; `slots` are the layers in them."""
        slots = slots or {name: ref.slot for name, ref in part.caches.items()}
        caches = {
            name: StackedCache(ref.group, slots[name], storages[self.storage_of[ref.group]])
            for name, ref in part.caches.items()
        }
        outputs = PartRunner(part, self.kernels[id(part)], weights)({**environment, **caches}, state)
        after = dict(storages)
        for name, ref in part.caches.items():
            after[self.storage_of[ref.group]] = dict(outputs.pop(name).arrays)
        return outputs, after

    def segment(
        self,
        segment: Segment,
        weights: Sequence[Mapping[str, jax.Array]],
        environment: dict[str, Any],
        storages: Storages,
        state: StepState,
    ) -> tuple[dict[str, Any], Storages]:
        """The environment and storages after a segment; its weights, by body, are stacked where it repeats.

        The storages are carried, not scanned over: a scan copies what goes in and out by slices.
        """
        if segment.repeats == 1:
            for part, bound in zip(segment.layers, weights, strict=True):
                outputs, storages = self.part(part, bound, environment, storages, state)
                environment = {**environment, **outputs}
            return environment, storages
        names = [name for name, _ in segment.layers[0].graph.outputs if name not in segment.layers[0].caches]

        def body(carry: Any, scanned: Any) -> tuple[Any, None]:
            values, held = carry
            for number, (bound, slots) in enumerate(scanned):
                outputs, held = self.part(segment.layers[number], bound, {**environment, **values}, held, state, slots)
                values = {**values, **outputs}
            return (values, held), None

        carried = {name: environment[name] for name in names}
        (carried, storages), _ = lax.scan(body, (carried, storages), (list(zip(weights, _slots(segment), strict=True))))
        return {**environment, **carried}, storages


def _slots(segment: Segment) -> list[dict[str, jax.Array]]:
    """By body, the layer slot of each cache in every repeat, int32 [repeats]."""
    return [
        {
            name: jnp.array([part.caches[name].slot for part in segment.uses(body)], jnp.int32)
            for name in segment.layers[body].caches
        }
        for body in range(segment.period)
    ]
