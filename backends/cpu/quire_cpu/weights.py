"""Weights on their way into the native plan: declared while the graph is flattened, packed while it loads.

A weight is identified by its source and scheme, so that tied ones are held once. What form it takes follows from who
reads it: panels for linears and experts, float32 vectors for norms and biases, rows for an embedding; an embedding
that shares its source with a linear (a tied head), or that is quantized, reads rows out of panels. Panels of a
quantized scheme take the checkpoint's integers, or round floating-point rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from quire.device.contract import ExecutorPlan, LoadProgress, WeightSource
from quire.errors import BackendError, ModelError
from quire.graph.ir import Cat, OneOf, Source, Src, Stack, Weight
from quire.graph.shapes import concrete
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme
from quire_cpu import _native

Key = tuple[Source, str, bool]  # source, scheme, keep_f32

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


@dataclass(frozen=True, slots=True)
class _Held:
    """A weight of the plan: any one Weight with this source, the forms it is held in, its native handles by form."""

    weight: Weight
    shape: tuple[int, ...]
    dtype: str
    handles: dict[str, tuple[int, ...]]


class PlanWeights:
    """Every weight of a plan's graph, declared to the native plan."""

    def __init__(self, plan: ExecutorPlan, native: _native.Plan) -> None:
        self._plan, self._native = plan, native
        self._sizes = plan.model.axis_sizes()
        self._held: dict[Key, _Held] = {}
        for weight, form in _uses(plan):
            self._note(weight, form)
        for held in self._held.values():
            for form in held.handles:
                held.handles[form] = self._declare(held, form)

    def vector(self, weight: Weight) -> int:
        """Native handle of a float32 vector."""
        return self._handles(weight, _VECTOR)[0]

    def matrix(self, weight: Weight) -> int:
        """Native handle of a packed [out, in] matrix."""
        return self._handles(weight, _MATRIX)[0]

    def experts(self, weight: Weight) -> tuple[int, ...]:
        """Native handles of packed matrices, one for each expert."""
        return self._handles(weight, _EXPERTS)

    def rows(self, weight: Weight) -> tuple[int | None, int | None]:
        """(table, matrix) of an embedding; one of them is None."""
        handles = self._held[_key(weight)].handles
        return (None, handles[_MATRIX][0]) if _MATRIX in handles else (handles[_ROWS][0], None)

    def identity(self) -> str:
        """What decides the bytes held, but for the checkpoint's contents: every weight, its shape, dtype and forms."""
        return "\n".join(
            f"{held.weight.source} {held.weight.scheme} {held.shape} {held.dtype} {sorted(held.handles)}"
            for held in self._held.values()
        )

    def load(self, source: WeightSource, progress: LoadProgress) -> None:
        """Reads and packs every weight once, in the order of the graph."""
        done = 0
        for held in self._held.values():
            for form, handles in held.handles.items():
                if form == _VECTOR:
                    done += self._load_vector(source, held, handles[0])
                elif form == _EXPERTS:
                    done += self._load_experts(source, held, handles)
                else:
                    done += self._load_matrix(source, held, form, handles[0])
                progress(min(done, source.total_bytes), source.total_bytes)

    # ---- declaration -----------------------------------------------------------------------------------

    def _note(self, weight: Weight, form: str) -> None:
        if form == _ROWS and weight.scheme != PLAIN:
            form = _MATRIX
        held = self._held.get(_key(weight))
        if held is None:
            dtype = "float32" if weight.keep_f32 else self._plan.weight_dtype
            held = self._held[_key(weight)] = _Held(weight, concrete(weight.shape, self._sizes), dtype, {})
        held.handles[form] = ()
        if _MATRIX in held.handles:
            held.handles.pop(_ROWS, None)

    def _declare(self, held: _Held, form: str) -> tuple[int, ...]:
        if form == _VECTOR:
            return (self._native.add_vector(held.shape[0]),)
        if form == _ROWS:
            return (self._native.add_table(held.dtype, *held.shape),)
        if form == _MATRIX:
            return (self._add_linear(held, *held.shape),)
        return tuple(self._add_linear(held, *held.shape[1:]) for _ in range(held.shape[0]))

    def _add_linear(self, held: _Held, rows: int, inputs: int) -> int:
        if held.weight.scheme == PLAIN:
            return self._native.add_linear(held.dtype, rows, inputs)
        scheme = WeightScheme.parse(held.weight.scheme)
        return self._native.add_linear(f"int{scheme.bits}", rows, inputs, scheme.group_size, scheme.has_zeros)

    def _handles(self, weight: Weight, form: str) -> tuple[int, ...]:
        return self._held[_key(weight)].handles[form]

    # ---- loading ---------------------------------------------------------------------------------------

    def _load_vector(self, source: WeightSource, held: _Held, handle: int) -> int:
        array = np.ascontiguousarray(source.read(held.weight).reshape(-1))
        # Rounded as a weight of the plan's dtype is, then held in float32, which norms compute in.
        vector = array.astype(_NUMPY_DTYPES[held.dtype]).astype(np.float32)
        self._native.fill_vector(handle, vector, "float32")
        return array.nbytes

    def _load_matrix(self, source: WeightSource, held: _Held, form: str, handle: int) -> int:
        matrix = None if held.weight.scheme == PLAIN else source.read_quantized(held.weight)
        if matrix is not None:
            return self._pack_quantized(handle, matrix)
        arrays = list(_arrays(source, held.weight, held.weight.source))
        segments = [_segment(array) for array in arrays]
        try:
            if form == _MATRIX:
                self._native.pack_linear(handle, segments)
            else:
                self._native.fill_table(handle, segments)
        except ValueError as error:
            raise ModelError(f"weight {held.weight.name} does not fit the model", because=str(error)) from error
        return sum(array.nbytes for array in arrays)

    def _pack_quantized(self, handle: int, matrix: QuantizedMatrix) -> int:
        zeros = None if matrix.zeros is None else np.ascontiguousarray(matrix.zeros)
        self._native.pack_quantized(
            handle, np.ascontiguousarray(matrix.values), np.ascontiguousarray(matrix.scales), zeros
        )
        return matrix.nbytes

    def _load_experts(self, source: WeightSource, held: _Held, handles: tuple[int, ...]) -> int:
        if held.weight.scheme != PLAIN:
            matrices = _expert_matrices(source, held.weight, len(handles))
            if matrices is not None:
                return sum(
                    self._pack_quantized(handle, matrix) for handle, matrix in zip(handles, matrices, strict=True)
                )
        done = 0
        for handle, arrays in zip(handles, _expert_arrays(source, held.weight, len(handles)), strict=True):
            self._native.pack_linear(handle, [_segment(array) for array in arrays])
            done += sum(array.nbytes for array in arrays)
        return done


def _key(weight: Weight) -> Key:
    return weight.source, weight.scheme, weight.keep_f32


def _uses(plan: ExecutorPlan) -> Iterator[tuple[Weight, str]]:
    """Every weight with the form in which an op reads it, in the order of the graph."""
    for part in plan.model.parts():
        for node in part.graph.nodes:
            for operand, name in enumerate(node.weights):
                if name:
                    yield part.graph.weights[name], _FORMS.get((node.op, operand), _VECTOR)


def _arrays(source: WeightSource, weight: Weight, expression: Source) -> Iterator[np.ndarray]:
    """Arrays [rows, k] whose rows in order are the weight's: joined expressions are read part by part."""
    expression = _chosen(source, weight, expression)
    if isinstance(expression, Cat) and expression.axis == 0:
        for part in expression.parts:
            yield from _arrays(source, weight, part)
    else:
        yield _read(source, weight, expression)


def _expert_arrays(source: WeightSource, weight: Weight, count: int) -> Iterator[list[np.ndarray]]:
    """For each expert, the arrays that make up its matrix: one expert is read at a time where they lie apart."""
    expression = _chosen(source, weight, weight.source)
    if isinstance(expression, Stack) and len(expression.parts) == count:
        for part in expression.parts:
            yield list(_arrays(source, weight, part))
    else:
        for matrix in _read(source, weight, expression):
            yield [matrix]


def _expert_matrices(source: WeightSource, weight: Weight, count: int) -> Iterator[QuantizedMatrix] | None:
    """Each expert's integers, one expert at a time where they lie apart; None where the source holds none."""
    expression = _chosen(source, weight, weight.source)
    if isinstance(expression, Stack) and len(expression.parts) == count:
        parts = [replace(weight, source=part, shape=weight.shape[1:]) for part in expression.parts]
        if source.read_quantized(parts[0]) is None:
            return None
        return (_integers(source, part) for part in parts)
    matrix = source.read_quantized(replace(weight, source=expression))
    if matrix is None:
        return None
    rows = matrix.shape[0] // count
    return (matrix.rows(slice(expert * rows, (expert + 1) * rows)) for expert in range(count))


def _integers(source: WeightSource, weight: Weight) -> QuantizedMatrix:
    matrix = source.read_quantized(weight)
    if matrix is None:
        raise ModelError(f"weight {weight.name} is in integers for some experts only")
    return matrix


def _chosen(source: WeightSource, weight: Weight, expression: Source) -> Source:
    """Of alternative expressions the first that the source has; any other as it is."""
    while isinstance(expression, OneOf):
        expression = next((o for o in expression.options[:-1] if _has(source, weight, o)), expression.options[-1])
    return expression


def _has(source: WeightSource, weight: Weight, expression: Source) -> bool:
    while not isinstance(expression, Src):
        expression = expression.options[0] if isinstance(expression, OneOf) else expression.parts[0]
    try:
        if weight.scheme == PLAIN or source.read_quantized(_of(weight, expression)) is None:
            _read(source, weight, expression)
    except ModelError:
        return False
    return True


def _read(source: WeightSource, weight: Weight, expression: Source) -> np.ndarray:
    return source.read(_of(weight, expression))


def _of(weight: Weight, expression: Source) -> Weight:
    """The weight with a part of its source in its place."""
    shape = expression.shape if isinstance(expression, Src) else weight.shape
    return replace(weight, source=expression, shape=shape)


def _segment(array: np.ndarray) -> tuple[np.ndarray, str]:
    """The array as the native module takes it: adjacent columns, bfloat16 as uint16, and the name of its dtype."""
    if array.ndim != 2:
        raise ModelError(f"a matrix weight has shape {array.shape}", because="it should have two dimensions")
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
