"""A quantized matrix on the host, whatever file it came from, and its numpy reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.errors import InternalError
from quire.weights.schemes.scheme import WeightScheme


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """weight[n, k] = scales[n, g] * (values[n, k] - zeros[n, g]), g = k // group_size (0 per channel).

    Attributes:
        scheme: bits, groups and whether there are zero points.
        values: int8 [N, K], one q per byte for every number of bits.
        scales: float32 [N, G]. zeros: float32 [N, G]; None = `scheme.default_zero`.
    """

    scheme: WeightScheme
    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None

    def __post_init__(self) -> None:
        rows, inputs = self.values.shape
        groups = (rows, self.scheme.num_groups(inputs))
        zeros_fit = self.zeros is None or (self.zeros.shape == groups and self.zeros.dtype == np.float32)
        if (
            self.values.dtype != np.int8
            or self.scales.dtype != np.float32
            or self.scales.shape != groups
            or not zeros_fit
            or self.scheme.has_zeros != (self.zeros is not None)
        ):
            raise InternalError(f"a quantized matrix {rows} x {inputs} does not fit its scheme {self.scheme.name}")

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.values.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    def rows(self, index: slice | np.ndarray) -> QuantizedMatrix:
        """The matrix of some outputs, in the order of `index`."""
        zeros = None if self.zeros is None else self.zeros[index]
        return QuantizedMatrix(self.scheme, self.values[index], self.scales[index], zeros)


def dequantize(matrix: QuantizedMatrix) -> np.ndarray:
    """float32 [N, K]: the reference that every kernel of the scheme is held to."""
    zeros = np.float32(matrix.scheme.default_zero) if matrix.zeros is None else _per_input(matrix, matrix.zeros)
    return (matrix.values.astype(np.float32) - zeros) * _per_input(matrix, matrix.scales)


def join_rows(parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """One matrix of all parts' rows, in order; they have one scheme and one number of inputs."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.scheme != first.scheme for part in parts):
        raise InternalError(
            "matrices of several quantization schemes cannot be joined",
            because=", ".join(sorted({part.scheme.name for part in parts})),
        )
    zeros = np.concatenate([part.zeros for part in parts if part.zeros is not None]) if first.scheme.has_zeros else None
    return QuantizedMatrix(
        first.scheme,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        zeros,
    )


def _per_input(matrix: QuantizedMatrix, per_group: np.ndarray) -> np.ndarray:
    inputs = matrix.values.shape[1]
    if matrix.scheme.group_size == 0:
        return per_group
    return np.repeat(per_group, matrix.scheme.group_size, axis=1)[:, :inputs]
