"""Round to nearest: how floating-point weights become integers when a model is quantized while it loads."""

from __future__ import annotations

import numpy as np

from quire.weights.schemes.matrix import QuantizedMatrix
from quire.weights.schemes.scheme import WeightScheme


def quantize(weights: np.ndarray, scheme: WeightScheme) -> QuantizedMatrix:
    """The matrix in integers, bit for bit what a device that quantizes for itself must come to.

    int8: scale = max|w| / 127. int4: the value farthest from zero becomes q = 0, that is -8, so that all sixteen
    levels are used; with zero points the range [min, max], zero included, is cut into fifteen steps. Scales of groups
    are rounded to float16 times one power of two per row, which keeps them off float16's edges; values are rounded,
    ties to even, with the scale that results.

    Args:
        weights: [N, K], any floating-point dtype.
    """
    rows, inputs = weights.shape
    groups, group = scheme.num_groups(inputs), scheme.group_size or inputs
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :inputs] = weights
    grouped = padded.reshape(rows, groups, group)
    low, high = np.minimum(grouped.min(axis=2), 0), np.maximum(grouped.max(axis=2), 0)
    wider_high = high > -low
    zeros = None
    if scheme.bits == 8:
        scales = np.where(wider_high, high, -low) / np.float32(127)
    elif scheme.has_zeros:
        scales = (high - low) / np.float32(15)
        zeros = np.rint(np.divide(-low, scales, out=np.zeros_like(low), where=scales > 0)).astype(np.float32)
    else:
        scales = np.where(wider_high, high, low) / np.float32(-8)
    if scheme.group_size:
        scales = _rounded(scales)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    zero = np.float32(scheme.default_zero) if zeros is None else zeros[:, :, None]
    values = np.clip(np.rint(grouped * inverse[:, :, None] + zero), *scheme.levels).astype(np.int8)
    return QuantizedMatrix(scheme, values.reshape(rows, -1)[:, :inputs], scales, zeros)


def _rounded(scales: np.ndarray) -> np.ndarray:
    largest = np.abs(scales).max(axis=1, keepdims=True)
    _, exponent = np.frexp(np.where(largest > 0, largest, np.float32(0.5)))
    factor = np.ldexp(np.float32(1), np.maximum(exponent, -120)).astype(np.float32)
    return (scales / factor).astype(np.float16).astype(np.float32) * factor
