"""Resolving a weight's source expression over named tensors, for one rank of a tensor-parallel group.

Each tensor is viewed, then cut by its own shape, then joined: so merged projections, replicated KV heads,
padded vocabularies and stacked experts need no case of their own, and no rank reads more than its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from quire.errors import InternalError
from quire.graph.ir import Axis, Cat, OneOf, Source, Src, Stack
from quire.graph.shapes import Dim, concrete
from quire.graph.shard import axis_range


class Tensors(Protocol):
    """Named arrays that sources are resolved over."""

    def __contains__(self, name: object) -> bool: ...

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's stored dtype."""

    def array(self, source: Src) -> np.ndarray:
        """The source's whole array after its view, uncut."""


class RankCut:
    """Cuts arrays for one rank.

    Args:
        axes: of the graph that the rank runs: what `quire.graph.shard` made of them, or uncut.
        rank, world_size: the place in the tensor-parallel group.
    """

    def __init__(self, axes: Mapping[str, Axis], rank: int = 0, world_size: int = 1) -> None:
        if world_size > 1 and all(axis.full is None for axis in axes.values()):
            raise InternalError(
                f"weights for rank {rank} of {world_size} are asked for with a model that is not cut",
                because="the model must have gone through shard first",
            )
        self.full_sizes = {name: axis.full_size for name, axis in axes.items()}
        self.local_sizes = {name: axis.size for name, axis in axes.items()}
        self.starts = {name: axis_range(axis, rank, world_size)[0] for name, axis in axes.items()}

    def cut(self, array: np.ndarray, shape: tuple[Dim, ...]) -> np.ndarray:
        """The rank's part of an uncut array: a view, unless there is padding to add."""
        for dimension, dim in enumerate(shape):
            start, size = self.span(dim)
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

    def span(self, dim: Dim) -> tuple[int, int]:
        """(start, size) of the rank's part of one dimension of a source's shape; the end may lie beyond the array."""
        if dim.is_constant:
            return 0, dim.evaluate({})
        if len(dim.terms) != 1 or len(dim.terms[0][0]) != 1:
            raise InternalError(f"a source has dimension {dim}; only one axis times a constant can be cut")
        (symbol,), coefficient = dim.terms[0]
        return self.starts[symbol] * coefficient, self.local_sizes[symbol] * coefficient


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


def used_tensors(source: Source, tensors: Tensors) -> Iterator[Src]:
    """The tensors that resolving the source reads, options chosen, uncut."""
    if isinstance(source, Src):
        yield source
    elif isinstance(source, OneOf):
        yield from used_tensors(choose(source, tensors), tensors)
    else:
        for part in source.parts:
            yield from used_tensors(part, tensors)


def resolve(source: Source, tensors: Tensors, cut: RankCut) -> np.ndarray:
    """The rank's array: a view of the tensors wherever one tensor gives all of it, else joined in one copy."""
    if isinstance(source, OneOf):
        return resolve(choose(source, tensors), tensors, cut)
    if isinstance(source, Src):
        return cut.cut(tensors.array(source), source.shape)
    dtype = np.result_type(*{tensors.dtype(tensor.name) for tensor in used_tensors(source, tensors)})
    out = np.empty(_local_shape(source, tensors, cut), dtype)
    _fill(out, source, tensors, cut)
    return out


def row_parts(source: Source, tensors: Tensors, cut: RankCut) -> Iterator[Source]:
    """The rank's parts whose rows, in order, are the source's, options chosen: what needs no joined copy.

    A source joined along another axis is one part; so is a row joined of several tensors.
    """
    if isinstance(source, OneOf):
        yield from row_parts(choose(source, tensors), tensors, cut)
    elif isinstance(source, Cat) and source.axis == 0:
        for part in source.parts:
            yield from row_parts(part, tensors, cut)
    elif isinstance(source, Stack):
        for part in own_parts(source, cut):
            yield from row_parts(part, tensors, cut) if _num_dims(part) > 1 else (part,)
    else:
        yield source


def _num_dims(source: Source) -> int:
    if isinstance(source, Src):
        return len(source.shape)
    if isinstance(source, Stack):
        return 1 + _num_dims(source.parts[0])
    return _num_dims(source.options[0] if isinstance(source, OneOf) else source.parts[0])


def _fill(out: np.ndarray, source: Source, tensors: Tensors, cut: RankCut) -> None:
    """Assigns in place: numpy's concatenate goes element by element for the dtypes of ml_dtypes."""
    if isinstance(source, OneOf):
        _fill(out, choose(source, tensors), tensors, cut)
    elif isinstance(source, Src):
        out[...] = resolve(source, tensors, cut)
    elif isinstance(source, Cat):
        start = 0
        for part in source.parts:
            stop = start + _local_shape(part, tensors, cut)[source.axis]
            _fill(out[(slice(None),) * source.axis + (slice(start, stop),)], part, tensors, cut)
            start = stop
    else:
        for index, part in enumerate(own_parts(source, cut)):
            _fill(out[index], part, tensors, cut)


def _local_shape(source: Source, tensors: Tensors, cut: RankCut) -> tuple[int, ...]:
    if isinstance(source, OneOf):
        return _local_shape(choose(source, tensors), tensors, cut)
    if isinstance(source, Src):
        return concrete(source.shape, cut.local_sizes)
    if isinstance(source, Stack):
        return (len(own_parts(source, cut)), *_local_shape(source.parts[0], tensors, cut))
    shapes = [_local_shape(part, tensors, cut) for part in source.parts]
    joined = sum(shape[source.axis] for shape in shapes)
    return (*shapes[0][: source.axis], joined, *shapes[0][source.axis + 1 :])


def own_parts(source: Stack, cut: RankCut) -> tuple[Source, ...]:
    """The parts of a stack that the rank holds."""
    start = cut.starts[source.symbol]
    return source.parts[start : start + cut.local_sizes[source.symbol]]


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
