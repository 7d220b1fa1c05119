"""The activation functions that ops take by name, in float32."""

from __future__ import annotations

import math

import numpy as np

from quire.errors import InternalError

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "quick_gelu")
"""Names that `activation`, `gated_activation` and `experts` accept; gelu_tanh is HF's gelu_new, gelu_pytorch_tanh."""

_erf = np.frompyfunc(math.erf, 1, 1)


def activate(x: np.ndarray, act: str) -> np.ndarray:
    """float32 activation functions.

    silu: x * sigmoid(x). gelu: x * Phi(x), exact. gelu_tanh: its tanh approximation. relu: max(x, 0).
    quick_gelu: x * sigmoid(1.702 x). Source: arXiv:1606.08415, arXiv:1702.03118.
    """
    if act == "silu":
        return x * sigmoid(x)
    if act == "gelu":
        phi = (1 + np.asarray(_erf(x / math.sqrt(2)), np.float64)) / 2
        return np.asarray(x * phi, np.float32)
    if act == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.float32(0.5) * x * (1 + np.tanh(inner))
    if act == "relu":
        return np.maximum(x, np.float32(0))
    if act == "quick_gelu":
        return x * sigmoid(np.float32(1.702) * x)
    raise InternalError(f"activation {act!r} has no reference", because="quire.ops.activations lists every name")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)); exp overflows to inf for very negative x, and the result is then 0 as it should be."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-x))
