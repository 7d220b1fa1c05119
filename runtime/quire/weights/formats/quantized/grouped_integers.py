"""Integers, scales and zero points of one matrix as a checkpoint stores them, before a scheme is asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.errors import InternalError
from quire.weights.schemes import QuantizedMatrix, WeightScheme

INT4_GROUPS = (128, 64, 32)

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, eq=False)
class GroupedIntegers:
    """weight[n, k] = scales[n, g(k)] * (values[n, k] - zeros[n, g(k)]), where inputs may belong to any group.

    Attributes:
        values: int8 [N, K]: 0..15 of 4 bits, -128..127 of 8 bits.
        scales, zeros: float32 [N, G], zeros in units of the values.
        group_size: consecutive inputs that share a group; 0 = all of them.
        group_of: the group of each input, int [K], where groups are not consecutive inputs; else None.
    """

    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_size: int
    group_of: np.ndarray | None = None

    def matrix(self, scheme: WeightScheme) -> QuantizedMatrix:
        """The same numbers in a scheme: groups are cut finer where the scheme's are smaller, nothing is rounded."""
        if self.group_of is not None or (not scheme.has_zeros and np.any(self.zeros != scheme.default_zero)):
            raise InternalError(f"{scheme.name} was chosen for a matrix that it cannot express")
        inputs = self.values.shape[1]
        groups = np.arange(scheme.num_groups(inputs)) * scheme.group_size // (self.group_size or inputs)
        zeros = self.zeros[:, groups] if scheme.has_zeros else None
        return QuantizedMatrix(scheme, self.values, self.scales[:, groups], zeros)

    def dense(self, dtype: np.dtype[Any]) -> np.ndarray:
        """[N, K] in a floating-point dtype: computed in float32, rounded once."""
        rows, inputs = self.values.shape
        groups = np.arange(inputs) // (self.group_size or inputs) if self.group_of is None else self.group_of
        out = np.empty((rows, inputs), dtype)
        for start in range(0, rows, _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            floats = self.values[some].astype(np.float32)
            floats -= np.take(self.zeros[some], groups, axis=1)
            floats *= np.take(self.scales[some], groups, axis=1)
            out[some] = floats
        return out


def scheme_of(bits: int, group_size: int, inputs: int, has_zeros: bool) -> WeightScheme | None:
    """The scheme that holds such a matrix exactly; None where there is none.

    int4 comes in groups of 32, 64 and 128: a longer group, or a whole row, is several of those with one scale.
    """
    if bits == 8:
        return None if has_zeros else WeightScheme(8, group_size)
    finer = next((size for size in INT4_GROUPS if (group_size or inputs) % size == 0), group_size or INT4_GROUPS[0])
    return WeightScheme(bits, finer, has_zeros)
