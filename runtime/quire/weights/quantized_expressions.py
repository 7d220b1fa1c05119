"""Resolving a weight's source expression over quantized matrices: rows are joined, cut and viewed as integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.errors import ConfigError, InternalError
from quire.graph.ir import Cat, OneOf, Source, Src, Stack
from quire.graph.shapes import Dim
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.checkpoint_tensors import CheckpointTensors
from quire.weights.expressions import RankCut, apply_view, choose, own_parts, used_tensors
from quire.weights.schemes import PLAIN, QuantizedMatrix, join_rows


class StoredSchemes:
    """How the files of a checkpoint hold the sources of an uncut model.

    Args:
        axis_sizes: of the model.
    """

    def __init__(self, files: CheckpointFiles, axis_sizes: Mapping[str, int]) -> None:
        self._tensors = CheckpointTensors(files, axis_sizes)

    def of(self, source: Source) -> str:
        """The scheme in which a device can have the source, or "plain"."""
        return stored_scheme(source, self._tensors)

    def has_integers(self, source: Source) -> bool:
        """Whether any tensor of the source is quantized."""
        tensors = (tensor.name for tensor in used_tensors(source, self._tensors))
        return any(name in self._tensors and self._tensors.scheme(name) != PLAIN for name in tensors)


def stored_scheme(source: Source, tensors: CheckpointTensors) -> str:
    """The one scheme in which `resolve_quantized` can give the source; "plain" where it cannot.

    It cannot where a tensor is plain or missing, where tensors differ in scheme, and where inputs would have to move.
    """
    found = {_source_scheme(tensor, tensors) for tensor in used_tensors(source, tensors)}
    return found.pop() if len(found) == 1 and _joins_rows(source, tensors) else PLAIN


def resolve_quantized(source: Source, tensors: CheckpointTensors, cut: RankCut) -> QuantizedMatrix:
    """The rank's matrix of a source whose `stored_scheme` is not plain; a stack's matrices one below the other.

    Raises ConfigError when the rank's inputs would begin or end inside a group.
    """
    if isinstance(source, OneOf):
        return resolve_quantized(choose(source, tensors), tensors, cut)
    if isinstance(source, Src):
        matrix = tensors.quantized(source.name)
        rows = _viewed_rows(source, matrix.shape, tensors.axis_sizes)
        if rows is None:
            raise InternalError(f"{source.name} is viewed in a way that integers cannot be")
        return _cut(matrix.rows(rows), source, cut)
    parts = own_parts(source, cut) if isinstance(source, Stack) else source.parts
    return join_rows([resolve_quantized(part, tensors, cut) for part in parts])


def _source_scheme(source: Src, tensors: CheckpointTensors) -> str:
    if source.name not in tensors or tensors.scheme(source.name) == PLAIN:
        return PLAIN
    shape = tensors.shape(source.name)
    takeable = len(shape) == 2 and _viewed_rows(source, (shape[0], shape[1]), tensors.axis_sizes) is not None
    return tensors.scheme(source.name) if takeable else PLAIN


def _joins_rows(source: Source, tensors: CheckpointTensors) -> bool:
    if isinstance(source, Src):
        return True
    if isinstance(source, OneOf):
        return _joins_rows(choose(source, tensors), tensors)
    return not (isinstance(source, Cat) and source.axis) and all(_joins_rows(part, tensors) for part in source.parts)


def _viewed_rows(source: Src, shape: tuple[int, int], sizes: Mapping[str, int]) -> slice | np.ndarray | None:
    """Which rows of the stored matrix the view takes, in order; None when it does anything else to it."""
    if not source.view:
        return slice(None)
    rows = np.arange(shape[0])
    for step in source.view:
        on_rows = _step_on_rows(step, rows.ndim, shape[1], sizes)
        if on_rows is None:
            return None
        try:
            rows = apply_view(rows, (on_rows,), sizes)
        except (ValueError, IndexError):
            return None
    return rows if rows.ndim == 1 else None


def _step_on_rows(
    step: tuple[Any, ...], num_dims: int, inputs: int, sizes: Mapping[str, int]
) -> tuple[Any, ...] | None:
    """A view's step without the last dimension, the inputs, which it must leave alone."""
    if step[0] == "transpose":
        return ("transpose", tuple(step[1][:-1])) if step[1][-1] == num_dims else None
    if step[0] == "reshape":
        same_inputs = Dim.of(step[1][-1]).evaluate(sizes) == inputs
        return ("reshape", tuple(step[1][:-1])) if same_inputs else None
    return step if step[1] < num_dims else None


def _cut(matrix: QuantizedMatrix, source: Src, cut: RankCut) -> QuantizedMatrix:
    scheme, inputs = matrix.scheme, matrix.shape[1]
    rows, columns = source.shape
    start, size = cut.span(columns)
    stop, group = min(start + size, inputs), scheme.group_size
    if group and (start % group or (stop % group and stop != inputs)):
        raise ConfigError(
            f"{source.name} in {scheme.name} cannot be cut into {inputs // size} parts",
            because=f"a part of {size} inputs is no whole number of groups of {group}",
            hint="a smaller --tensor-parallel-size",
        )
    groups = slice(start // group, -(-stop // group)) if group else slice(None)

    def own_rows(array: np.ndarray) -> np.ndarray:
        return cut.cut(array, (rows, Dim.of(array.shape[1])))

    zeros = None if matrix.zeros is None else own_rows(matrix.zeros[:, groups])
    return QuantizedMatrix(scheme, own_rows(matrix.values[:, start:stop]), own_rows(matrix.scales[:, groups]), zeros)
