"""Weights on their way into the native plan: declared while the graph is flattened, packed while it loads.

Tied weights are one (`quire.device.plan_weights`). What form a weight takes follows from who reads it: panels for
linears and experts, float32 vectors for norms and biases, rows for an embedding; an embedding that shares its source
with a linear (a tied head), or that is quantized, reads rows out of panels. Panels of a quantized scheme take the
checkpoint's integers, or round floating-point rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import ml_dtypes
import numpy as np

from quire.device.contract import ExecutorPlan, LoadProgress, WeightSource
from quire.device.plan_weights import PlanWeight, WeightKey, WeightUse, plan_weights, weight_key
from quire.device.weight_source import WeightPiece
from quire.device.weight_stream import WeightStream
from quire.errors import BackendError, ModelError
from quire.graph.ir import Weight
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme, join_rows
from quire_cpu import _native

_VECTOR, _MATRIX, _ROWS, _EXPERTS = "vector", "matrix", "rows", "experts"
_FORMS: Mapping[tuple[str, int], str] = {
    ("embedding", 0): _ROWS,
    ("linear", 0): _MATRIX,
    ("experts", 0): _EXPERTS,
    ("experts", 1): _EXPERTS,
}
"""(op, weight operand) -> form; everything else is a vector."""

_NUMPY_DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


class NativeWeights:
    """Every weight of a plan's graph, declared to the native plan."""

    def __init__(self, plan: ExecutorPlan, native: _native.Plan) -> None:
        self._plan, self._native = plan, native
        self._planned = plan_weights(plan)
        self._handles: dict[WeightKey, dict[str, tuple[int, ...]]] = {
            planned.key: {form: self._declare(planned, form) for form in _forms(planned)} for planned in self._planned
        }

    def vector(self, weight: Weight) -> int:
        """Native handle of a float32 vector."""
        return self._handles_of(weight)[_VECTOR][0]

    def matrix(self, weight: Weight) -> int:
        """Native handle of a packed [out, in] matrix."""
        return self._handles_of(weight)[_MATRIX][0]

    def experts(self, weight: Weight) -> tuple[int, ...]:
        """Native handles of packed matrices, one for each expert."""
        return self._handles_of(weight)[_EXPERTS]

    def rows(self, weight: Weight) -> tuple[int | None, int | None]:
        """(table, matrix) of an embedding; one of them is None."""
        handles = self._handles_of(weight)
        return (None, handles[_MATRIX][0]) if _MATRIX in handles else (handles[_ROWS][0], None)

    def identity(self) -> str:
        """What decides the bytes held, but for the checkpoint's contents: every weight, its shape, dtype and forms."""
        return "\n".join(
            f"{planned.weight.source} {planned.weight.scheme} {planned.shape} {planned.dtype}"
            f" {sorted(self._handles[planned.key])}"
            for planned in self._planned
        )

    def load(self, source: WeightSource, progress: LoadProgress) -> None:
        """Reads and packs every weight once, in the order of the graph."""
        for planned, reader in WeightStream(self._plan, source, progress, weights=self._planned):
            forms = self._handles[planned.key]
            pieces: Iterable[WeightPiece] = reader.pieces()
            if len(forms) > 1:
                pieces = list(pieces)
            for form, handles in forms.items():
                if form == _VECTOR:
                    self._fill_vector(planned, handles[0], pieces)
                else:
                    self._fill_matrices(planned, form, handles, pieces)

    def _handles_of(self, weight: Weight) -> dict[str, tuple[int, ...]]:
        return self._handles[weight_key(self._plan, weight)]

    # ---- declaration -----------------------------------------------------------------------------------

    def _declare(self, planned: PlanWeight, form: str) -> tuple[int, ...]:
        if form == _VECTOR:
            return (self._native.add_vector(planned.shape[0]),)
        if form == _ROWS:
            return (self._native.add_table(planned.dtype, *planned.shape),)
        if form == _MATRIX:
            return (self._add_linear(planned, *planned.shape),)
        return tuple(self._add_linear(planned, *planned.shape[1:]) for _ in range(planned.shape[0]))

    def _add_linear(self, planned: PlanWeight, rows: int, inputs: int) -> int:
        if planned.weight.scheme == PLAIN:
            return self._native.add_linear(planned.dtype, rows, inputs)
        scheme = WeightScheme.parse(planned.weight.scheme)
        return self._native.add_linear(f"int{scheme.bits}", rows, inputs, scheme.group_size, scheme.has_zeros)

    # ---- loading ---------------------------------------------------------------------------------------

    def _fill_vector(self, planned: PlanWeight, handle: int, pieces: Iterable[WeightPiece]) -> None:
        """Rounded as a weight of the plan's dtype is, then held in float32, which norms compute in."""
        dtype = _NUMPY_DTYPES[planned.dtype]
        parts = [cast(np.ndarray, piece).reshape(-1).astype(dtype).astype(np.float32) for piece in pieces]
        self._native.fill_vector(handle, parts[0] if len(parts) == 1 else np.concatenate(parts), "float32")

    def _fill_matrices(
        self, planned: PlanWeight, form: str, handles: tuple[int, ...], pieces: Iterable[WeightPiece]
    ) -> None:
        for handle, parts in zip(handles, planned.matrices(pieces), strict=True):
            integers = [part for part in parts if isinstance(part, QuantizedMatrix)]
            numbers = [_segment(part) for part in parts if isinstance(part, np.ndarray)]
            try:
                if integers:
                    matrix = join_rows(integers)
                    parts.clear()  # the joined copy is packed; its parts need not wait for that
                    integers.clear()
                    self._pack_quantized(handle, matrix)
                elif form == _ROWS:
                    self._native.fill_table(handle, numbers)
                else:
                    self._native.pack_linear(handle, numbers)
            except ValueError as error:
                raise ModelError(f"weight {planned.weight.name} does not fit the model", because=str(error)) from error

    def _pack_quantized(self, handle: int, matrix: QuantizedMatrix) -> None:
        zeros = None if matrix.zeros is None else np.ascontiguousarray(matrix.zeros)
        self._native.pack_quantized(
            handle, np.ascontiguousarray(matrix.values), np.ascontiguousarray(matrix.scales), zeros
        )


def _forms(planned: PlanWeight) -> list[str]:
    """The forms in which the weight is held, one for each kind of reader."""
    forms = dict.fromkeys(_form(planned, use) for use in planned.uses)
    return [form for form in forms if form != _ROWS or _MATRIX not in forms]


def _form(planned: PlanWeight, use: WeightUse) -> str:
    form = _FORMS.get((use.node.op, use.operand), _VECTOR)
    return _MATRIX if form == _ROWS and planned.weight.scheme != PLAIN else form


def _segment(array: np.ndarray) -> tuple[np.ndarray, str]:
    """The array as the native module takes it: adjacent columns, bfloat16 as uint16, and the name of its dtype."""
    name = array.dtype.name
    if name not in _NUMPY_DTYPES:
        if array.dtype.kind not in "fiu":
            raise BackendError(
                f"device cpu cannot read weights of dtype {name}", hint="a float32, bfloat16 or float16 checkpoint"
            )
        array, name = array.astype(np.float32), "float32"
    adjacent = array.shape[1] <= 1 or array.strides[1] == array.itemsize
    if not adjacent or array.strides[0] % array.itemsize or not array.flags.aligned:
        array = np.array(array, order="C")
    return (array.view(np.uint16) if name == "bfloat16" else array), name
