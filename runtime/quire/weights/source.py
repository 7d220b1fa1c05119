"""Resolving a weight's source expression over named tensors, for one rank of a tensor-parallel group.

Each tensor is viewed, then cut by its own shape, then joined: so merged projections, replicated KV heads,
padded vocabularies and stacked experts need no case of their own, and no rank reads more than its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quire.errors import ConfigError, InternalError
from quire.graph.ir import Axis, Cat, OneOf, Source, Src
from quire.graph.shapes import Dim, concrete


class Tensors(Protocol):
    """Named arrays that sources are resolved over."""

    def __contains__(self, name: object) -> bool: ...

    def array(self, source: Src) -> np.ndarray:
        """The source's whole array after its view, uncut."""


@dataclass(frozen=True, slots=True)
class AxisRange:
    """A rank's share of an axis: [start, start + size); what lies beyond the full axis is padding."""

    start: int
    size: int


def axis_range(name: str, axis: Axis, rank: int, world_size: int) -> AxisRange:
    """A rank's share of one axis by its policy. Raises ConfigError when it cannot be shared out."""
    if axis.policy == "whole":
        return AxisRange(0, axis.size)
    if axis.policy == "pad":
        size = -(-axis.size // world_size)
        return AxisRange(rank * size, size)
    if axis.size % world_size == 0:
        size = axis.size // world_size
        return AxisRange(rank * size, size)
    if axis.policy == "replicate_if_fewer" and world_size % axis.size == 0:
        return AxisRange(rank * axis.size // world_size, 1)
    raise ConfigError(f"{axis.size} {name} cannot be shared by {world_size} ranks",
                      because="each rank takes an equal share of them",
                      try_=f"a tensor-parallel size that divides {axis.size}")


class RankCut:
    """Cuts shapes and arrays for one rank.

    Args:
        axes: the uncut axes of the model.
        rank, world_size: the place in the tensor-parallel group; world_size 1 cuts nothing.
    """

    def __init__(self, axes: Mapping[str, Axis], rank: int = 0, world_size: int = 1) -> None:
        self.full_sizes = {name: axis.size for name, axis in axes.items()}
        self.ranges = {name: axis_range(name, axis, rank, world_size) for name, axis in axes.items()}
        self.local_sizes = {name: share.size for name, share in self.ranges.items()}

    def cut(self, array: np.ndarray, shape: tuple[Dim, ...]) -> np.ndarray:
        """The rank's part of an uncut array: a view, unless there is padding to add."""
        for dimension, dim in enumerate(shape):
            start, size = self._span(dim)
            full = array.shape[dimension]
            if (start, size) == (0, full):
                continue
            stop = min(start + size, full)
            array = array[(slice(None),) * dimension + (slice(min(start, stop), stop),)]
            missing = size - array.shape[dimension]
            if missing:
                padding = [(0, missing if other == dimension else 0) for other in range(array.ndim)]
                array = np.pad(array, padding)
        return array

    def _span(self, dim: Dim) -> tuple[int, int]:
        if dim.is_constant:
            return 0, dim.evaluate({})
        if len(dim.terms) != 1 or len(dim.terms[0][0]) != 1:
            raise InternalError(f"a source has dimension {dim}; only one axis times a constant can be cut")
        (symbol,), coefficient = dim.terms[0]
        share = self.ranges[symbol]
        return share.start * coefficient, share.size * coefficient


def choose(source: OneOf, tensors: Tensors) -> Source:
    """The first option whose tensors are all there, else the first."""
    for option in source.options:
        if is_complete(option, tensors):
            return option
    return source.options[0]


def is_complete(source: Source, tensors: Tensors) -> bool:
    """Whether every tensor that the source needs is there (of an OneOf: of one option)."""
    if isinstance(source, Src):
        return source.name in tensors
    if isinstance(source, OneOf):
        return any(is_complete(option, tensors) for option in source.options)
    return all(is_complete(part, tensors) for part in source.parts)


def resolve(source: Source, tensors: Tensors, cut: RankCut) -> np.ndarray:
    """The rank's array: a view of the tensors wherever one tensor gives all of it."""
    if isinstance(source, OneOf):
        return resolve(choose(source, tensors), tensors, cut)
    if isinstance(source, Src):
        return cut.cut(tensors.array(source), source.shape)
    if isinstance(source, Cat):
        return np.concatenate([resolve(part, tensors, cut) for part in source.parts], axis=source.axis)
    share = cut.ranges[source.symbol]
    return np.stack([resolve(part, tensors, cut) for part in source.parts[share.start : share.start + share.size]])


def apply_view(array: np.ndarray, view: tuple[tuple[Any, ...], ...], sizes: Mapping[str, int]) -> np.ndarray:
    """The steps of `Src.view` on an uncut array. Raises ValueError when a step does not fit its shape."""
    for step in view:
        if step[0] == "transpose":
            array = array.transpose(step[1])
        elif step[0] == "reshape":
            shape = concrete(tuple(Dim.of(size) for size in step[1]), sizes)
            if len(shape) == array.ndim and shape != array.shape:
                raise ValueError(f"shape {list(array.shape)}, expected {list(shape)}")
            array = array.reshape(shape)
        elif step[0] == "index":
            array = array[(slice(None),) * step[1] + (Dim.of(step[2]).evaluate(sizes),)]
        elif step[0] == "slice":
            start, stop = (Dim.of(size).evaluate(sizes) for size in step[2:4])
            if not 0 <= start <= stop <= array.shape[step[1]]:
                raise ValueError(f"shape {list(array.shape)} has no rows {start} to {stop} of axis {step[1]}")
            array = array[(slice(None),) * step[1] + (slice(start, stop),)]
        else:
            raise InternalError(f"unknown view step {step[0]!r}")
    return array

