"""Normalizations. T rows (any leading shape), D normalized elements."""

from __future__ import annotations

import numpy as np

from quire.reference.rounding import as_f32, round_to


def rms_norm(
    x: np.ndarray, weight: np.ndarray, *, eps: float, weight_offset: float = 0.0, round_before_weight: bool = False
) -> np.ndarray:
    """x / sqrt(mean(x**2) + eps) * (weight + weight_offset), over the last dimension.

    Args:
        x: [..., D] in the activation dtype. weight: [D].
        weight_offset: added to the weight in float32 (Gemma stores w - 1).
        round_before_weight: the normalized x is rounded to the activation dtype before the product (Llama, Qwen).
    Source: arXiv:1910.07467.
    """
    x32 = as_f32(x)
    normed = x32 * (np.float32(1) / np.sqrt(np.mean(x32 * x32, axis=-1, keepdims=True) + np.float32(eps)))
    if round_before_weight:
        normed = as_f32(round_to(normed, x.dtype))
    return round_to(normed * (as_f32(weight) + np.float32(weight_offset)), x.dtype)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, eps: float) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last dimension; var is the biased variance.

    Source: arXiv:1607.06450.
    """
    x32 = as_f32(x)
    centered = x32 - np.mean(x32, axis=-1, keepdims=True)
    variance = np.mean(centered * centered, axis=-1, keepdims=True)
    normed = centered / np.sqrt(variance + np.float32(eps)) * as_f32(weight)
    return round_to(normed if bias is None else normed + as_f32(bias), x.dtype)
