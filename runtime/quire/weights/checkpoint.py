"""Weights from an opened checkpoint, checked against the model before the first one is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np

from quire.errors import ModelError
from quire.files import reading
from quire.graph.ir import ModelGraph, OneOf, Source, Src, Weight
from quire.graph.shapes import concrete
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.checkpoint_tensors import CheckpointTensors
from quire.weights.expressions import RankCut, is_complete, resolve, row_parts, used_tensors
from quire.weights.fingerprint import fingerprint
from quire.weights.open_checkpoint import open_checkpoint
from quire.weights.quantized_expressions import resolve_quantized, stored_scheme
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme

_MOST_NAMES_SHOWN = 40


class CheckpointWeights:
    """The contract's WeightSource over a checkpoint's files.

    Args:
        checkpoint: where it lies, or its opened files.
        model: the graph this rank runs, before or after passes; cut by `quire.graph.shard` when world_size > 1.
        rank, world_size: the place in the tensor-parallel group.
        ignorable_tensors: fnmatch patterns of tensors that may be there unused.
        where: how errors call the checkpoint, when it is not where `checkpoint` says.
    Raises ModelError naming every missing, unexpected and mis-shaped tensor at once.
    """

    def __init__(
        self,
        checkpoint: Path | CheckpointFiles,
        model: ModelGraph,
        rank: int = 0,
        world_size: int = 1,
        ignorable_tensors: Sequence[str] = (),
        *,
        where: str = "",
    ) -> None:
        self._files = open_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        self._model, self._rank, self._world_size = model, rank, world_size
        self._ignorable_tensors = ignorable_tensors
        self._cut = RankCut(model.axes, rank, world_size)
        self._tensors = CheckpointTensors(self._files, self._cut.full_sizes)
        weights = {weight.source: weight for part in model.parts() for weight in part.graph.weights.values()}
        self._where = where or (str(checkpoint) if isinstance(checkpoint, Path) else "the checkpoint")
        with reading(self._where):
            _check(self._where, dict.fromkeys(weights), self._tensors, ignorable_tensors)
            self.total_bytes = sum(map(self._num_bytes, weights.values()))

    @cached_property
    def fingerprint(self) -> str:
        """Differs when the files do; see `quire.weights.fingerprint`."""
        return fingerprint(self._files.paths)

    def read(self, weight: Weight) -> np.ndarray:
        """The rank's array, dequantized where the files hold integers, else in its stored dtype.

        A read-only view of the mapped file where one tensor gives it.
        """
        with reading(lambda: f"{self._where}: weight {weight.name}"):
            self._require(weight)
            return self._array(weight.source)

    def read_quantized(self, weight: Weight) -> QuantizedMatrix | None:
        """The rank's matrix in integers, of `weight.scheme`; None when the files hold floating-point numbers.

        Raises ModelError for integers of another scheme, and where joining or viewing them is not possible.
        """
        with reading(lambda: f"{self._where}: weight {weight.name}"):
            self._require(weight)
            if self._is_in_numbers(weight):
                return None
            return resolve_quantized(weight.source, self._tensors, self._cut)

    def pieces(self, weight: Weight) -> Iterator[np.ndarray | QuantizedMatrix]:
        """The rank's rows, in order, tensor by tensor, where `read` and `read_quantized` would join them.

        Integers where the weight has a scheme and the files hold it, else arrays. Raises as those two do.
        """
        with reading(lambda: f"{self._where}: weight {weight.name}"):
            self._require(weight)
            in_numbers = weight.scheme == PLAIN or self._is_in_numbers(weight)
        for part in row_parts(weight.source, self._tensors, self._cut):
            with reading(lambda: f"{self._where}: weight {weight.name}"):
                piece = self._array(part) if in_numbers else resolve_quantized(part, self._tensors, self._cut)
            yield piece

    def for_rank(self, rank: int) -> CheckpointWeights:
        """The source of another rank's cuts, over the same files."""
        if rank == self._rank:
            return self
        ignorable, where = self._ignorable_tensors, self._where
        return CheckpointWeights(self._files, self._model, rank, self._world_size, ignorable, where=where)

    def stored_scheme(self, weight: Weight) -> str:
        """The scheme in which `read_quantized` can give the weight, or "plain"."""
        return stored_scheme(weight.source, self._tensors)

    def _array(self, source: Source) -> np.ndarray:
        array = resolve(source, self._tensors, self._cut)
        array.setflags(write=False)
        return array

    def _is_in_numbers(self, weight: Weight) -> bool:
        """Whether the files hold floating-point numbers. Raises ModelError for integers of another scheme."""
        if all(self._tensors.scheme(tensor.name) == PLAIN for tensor in used_tensors(weight.source, self._tensors)):
            return True
        stored = stored_scheme(weight.source, self._tensors)
        if stored != weight.scheme:
            names = ", ".join(_first_few(used_tensors(weight.source, self._tensors)))
            held = stored if stored != PLAIN else "integers that do not join"
            raise ModelError(
                f"weight {weight.name} cannot be read as {weight.scheme}", because=f"{names}: stored as {held}"
            )
        return False

    def _require(self, weight: Weight) -> None:
        if not is_complete(weight.source, self._tensors):
            raise ModelError(
                f"weight {weight.name} needs tensors that the checkpoint does not have",
                because=", ".join(_first_missing(weight.source, self._tensors)),
            )

    def _num_bytes(self, weight: Weight) -> int:
        """Bytes of what a device reads for the weight."""
        shape = concrete(weight.shape, self._cut.local_sizes)
        first = next(used_tensors(weight.source, self._tensors))
        if weight.scheme == PLAIN or self._tensors.scheme(first.name) == PLAIN:
            return math.prod(shape) * self._tensors.dtype(first.name).itemsize
        scheme = WeightScheme.parse(weight.scheme)
        per_row = shape[-1] + 4 * scheme.num_groups(shape[-1]) * (1 + scheme.has_zeros)
        return math.prod(shape[:-1]) * per_row


def _first_missing(source: Source, tensors: CheckpointTensors) -> list[str]:
    """Names missing from the option that lacks the fewest."""
    if isinstance(source, OneOf):
        return min((_first_missing(option, tensors) for option in source.options), key=len)
    if isinstance(source, Src):
        return [] if source.name in tensors else [source.name]
    return [name for part in source.parts for name in _first_missing(part, tensors)]


def _check(
    where: str, sources: dict[Source, None], tensors: CheckpointTensors, ignorable_tensors: Sequence[str]
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
        name
        for name in tensors.files.names
        if name not in used
        and not any(fnmatchcase(name, pattern) for pattern in ignorable_tensors)
        and not _adds_nothing(name, used, tensors)
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(list(names), separator)}"
        for kind, names, separator in (
            ("missing", missing, ", "),
            ("unexpected", unexpected, ", "),
            ("not as expected", misshaped, "; "),
        )
        if names
    ]
    if problems:
        raise ModelError(
            f"{where} does not hold the model that its config.json describes",
            because="\n    ".join(["its tensors:", *problems]),
            hint="config.json and weights of one revision of the checkpoint",
        )


def _adds_nothing(name: str, used: Mapping[str, None], tensors: CheckpointTensors) -> bool:
    """A bias of zeros beside a matrix that the model has no bias for: AutoGPTQ wrote one for every layer."""
    matrix = f"{name.removesuffix('.bias')}.weight"
    return name.endswith(".bias") and matrix in used and not np.any(tensors.files.tensor(name) != 0)


def _present(source: Source, tensors: CheckpointTensors) -> Iterator[str]:
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


def _first_few(tensors: Iterator[Src]) -> list[str]:
    names = [tensor.name for tensor in tensors]
    return names if len(names) <= 3 else [*names[:3], "..."]
