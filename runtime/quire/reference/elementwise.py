"""Ops without sums: element by element, views, rows, and the collectives of a single rank."""

from __future__ import annotations

import math

import numpy as np

from quire.errors import BackendError, InternalError
from quire.reference.rounding import as_f32, round_to

_erf = np.frompyfunc(math.erf, 1, 1)


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b in float32, rounded once."""
    return round_to(as_f32(a) + as_f32(b), a.dtype)


def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    """x * factor; the factor is float32."""
    return round_to(as_f32(x) * np.float32(factor), x.dtype)


def softcap(x: np.ndarray, *, cap: float) -> np.ndarray:
    """cap * tanh(x / cap): keeps values inside (-cap, cap). Source: Gemma 2, arXiv:2408.00118."""
    return round_to(capped(as_f32(x), cap), x.dtype)


def capped(x: np.ndarray, cap: float) -> np.ndarray:
    """`softcap` on float32."""
    return np.float32(cap) * np.tanh(x / np.float32(cap))


def activation(x: np.ndarray, *, act: str) -> np.ndarray:
    """The activation function `act` of every element (`activate`)."""
    return round_to(activate(as_f32(x), act), x.dtype)


def gated_activation(gate: np.ndarray, up: np.ndarray, *, act: str) -> np.ndarray:
    """act(gate) * up, rounded once. Source: arXiv:2002.05202."""
    return round_to(activate(as_f32(gate), act) * as_f32(up), gate.dtype)


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
    raise InternalError(f"activation {act!r} has no reference", because="graph.ops.ACTIVATIONS lists every name")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)); exp overflows to inf for very negative x, and the result is then 0 as it should be."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-x))


def split(x: np.ndarray, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[np.ndarray, ...]:
    """Consecutive views of `sizes` elements along `axis`."""
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def reshape(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    """The same elements in another shape, last dimension fastest; one size may be -1."""
    return x.reshape(shape)


def take_rows(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """x[rows]: rows int32 [L] of x [T, ...]."""
    return x[rows]


def all_reduce(x: np.ndarray, bias: np.ndarray | None = None, *, world_size: int = 1) -> np.ndarray:
    """The sum over ranks, plus the bias of the row-cut linear that made the pieces; with one rank, x + bias."""
    _one_rank("all_reduce", world_size)
    return x if bias is None else round_to(as_f32(x) + as_f32(bias), x.dtype)


def all_gather(x: np.ndarray, *, axis: int, size: int, world_size: int = 1) -> np.ndarray:
    """All ranks' pieces joined along `axis`, cut to `size` (padding of the last rank is dropped); with one rank, x."""
    _one_rank("all_gather", world_size)
    return np.take(x, np.arange(size), axis=axis) if x.shape[axis] != size else x


def _one_rank(op: str, world_size: int) -> None:
    if world_size != 1:
        raise BackendError(
            f"{op} over {world_size} ranks on the reference",
            because="it runs a single rank",
            hint="tensor parallelism of degree 1, or another device",
        )
