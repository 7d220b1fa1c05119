"""Weights from a checkpoint's folder, checked against the model before the first one is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from quire.errors import ModelError
from quire.graph.ir import ModelGraph, OneOf, Source, Src, Weight
from quire.graph.shapes import concrete
from quire.weights.safetensors_file import SafetensorsCheckpoint
from quire.weights.source import RankCut, apply_view, is_complete, resolve, used_tensors

WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float64))

_MOST_NAMES_SHOWN = 40


class CheckpointWeights:
    """The contract's WeightSource over safetensors files.

    Args:
        folder: the checkpoint.
        model: the graph this rank runs, before or after passes; cut by `quire.graph.shard` when world_size > 1.
        rank, world_size: the place in the tensor-parallel group.
        ignorable_tensors: fnmatch patterns of tensors that may be there unused.
    Raises ModelError naming every missing, unexpected and mis-shaped tensor at once.
    """

    def __init__(
        self, folder: Path, model: ModelGraph, rank: int = 0, world_size: int = 1,
        ignorable_tensors: Sequence[str] = (),
    ) -> None:
        cut = RankCut(model.axes, rank, world_size)
        self._tensors = ViewedTensors(SafetensorsCheckpoint(Path(folder)), cut.full_sizes)
        self._cut = cut
        sources = dict.fromkeys(weight.source for part in model.parts() for weight in part.graph.weights.values())
        _check(Path(folder), sources, self._tensors, ignorable_tensors)
        shapes = {weight.source: weight.shape for part in model.parts() for weight in part.graph.weights.values()}
        self.total_bytes = sum(
            math.prod(concrete(shapes[source], self._cut.local_sizes)) * self._itemsize(source) for source in sources
        )

    def read(self, weight: Weight) -> np.ndarray:
        """The rank's array in its stored dtype; a read-only view of the mapped file where one tensor gives it."""
        if not is_complete(weight.source, self._tensors):
            raise ModelError(f"weight {weight.name} needs tensors that the checkpoint does not have",
                             because=", ".join(_first_missing(weight.source, self._tensors)))
        array = resolve(weight.source, self._tensors, self._cut)
        array.setflags(write=False)
        return array

    def _itemsize(self, source: Source) -> int:
        first = next(used_tensors(source, self._tensors))
        return self._tensors.dtype(first.name).itemsize


class ViewedTensors:
    """Tensors of a checkpoint with each source's view applied."""

    def __init__(self, checkpoint: SafetensorsCheckpoint, axis_sizes: Mapping[str, int]) -> None:
        self.checkpoint, self._sizes = checkpoint, axis_sizes

    def __contains__(self, name: object) -> bool:
        return name in self.checkpoint

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's stored dtype."""
        return self.checkpoint.entry(name).dtype

    def array(self, source: Src) -> np.ndarray:
        """The uncut array after the view."""
        return apply_view(self.checkpoint.tensor(source.name), source.view, self._sizes)

    def problem(self, source: Src) -> str:
        """What is wrong with the stored dtype or shape, or ""; nothing is read."""
        if self.dtype(source.name) not in WEIGHT_DTYPES:
            return f"{source.name} is stored as {self.dtype(source.name)}, which needs a quantization scheme"
        stored = self.checkpoint.entry(source.name).shape
        expected = concrete(source.shape, self._sizes)
        try:
            found = apply_view(np.broadcast_to(np.int8(0), stored), source.view, self._sizes).shape
        except (ValueError, IndexError) as error:
            return f"{source.name} is {list(stored)}, which does not fit config.json: {error}"
        if found == expected:
            return ""
        return f"{source.name} is {list(stored)}, config.json makes it {list(expected)}" + (
            f" where it gives {list(found)}" if source.view else "")


def _first_missing(source: Source, tensors: ViewedTensors) -> list[str]:
    """Names missing from the option that lacks the fewest."""
    if isinstance(source, OneOf):
        return min((_first_missing(option, tensors) for option in source.options), key=len)
    if isinstance(source, Src):
        return [] if source.name in tensors else [source.name]
    return [name for part in source.parts for name in _first_missing(part, tensors)]


def _check(
    folder: Path, sources: dict[Source, None], tensors: ViewedTensors, ignorable_tensors: Sequence[str]
) -> None:
    used: dict[str, None] = {}
    missing: dict[str, None] = {}
    misshaped: dict[str, None] = {}
    for source in sources:
        if not is_complete(source, tensors):
            missing.update(dict.fromkeys(_first_missing(source, tensors)))
            used.update(dict.fromkeys(_present(source, tensors)))
            continue
        for tensor in used_tensors(source, tensors):
            used[tensor.name] = None
            problem = tensors.problem(tensor)
            if problem:
                misshaped[problem] = None
    unexpected = [
        name for name in tensors.checkpoint.names
        if name not in used and not any(fnmatchcase(name, pattern) for pattern in ignorable_tensors)
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(list(names), separator)}"
        for kind, names, separator in (
            ("missing", missing, ", "), ("unexpected", unexpected, ", "), ("not as expected", misshaped, "; "))
        if names
    ]
    if problems:
        raise ModelError(f"{folder} does not hold the model that its config.json describes",
                         because="\n    ".join(["its tensors:", *problems]),
                         try_="config.json and weights of one revision of the checkpoint")


def _present(source: Source, tensors: ViewedTensors) -> Iterator[str]:
    """Every tensor of an incomplete source that is there: it is not unexpected."""
    children: tuple[Source, ...] = ()
    if isinstance(source, Src):
        if source.name in tensors:
            yield source.name
    else:
        children = source.options if isinstance(source, OneOf) else source.parts
    for child in children:
        yield from _present(child, tensors)


def _listed(names: list[str], separator: str) -> str:
    shown = separator.join(names[:_MOST_NAMES_SHOWN])
    left = len(names) - _MOST_NAMES_SHOWN
    return f"{shown}{separator}and {left} more" if left > 0 else shown
