"""Ops without a cache, and attention over keys that somebody gathers: what both backends of this package run.

A maker takes a graph's node and gives its kernel: a function of (context, inputs, weights) that returns a tuple of
results. Everything that does not change from step to step is worked out in the maker. All arithmetic is float32.
Shapes here: T tokens (rows), L logits rows, H heads, K kv_heads, d head_dim, n rows of one sequence, m its keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quire.device import CacheHandle, ExecutorPlan, Kernel, StepContext
from quire.graph.ir import Node
from quire.graph.rope import rope_table
from quire.graph.shapes import Dim

Maker = Callable[[Node, ExecutorPlan], Kernel]
Gather = Callable[[CacheHandle, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""gather(cache, block_ids [m], offsets [m]) -> k [K, m, d], v [K, m, d]: the only thing attention asks of a layout."""


def _embedding(node: Node, plan: ExecutorPlan) -> Kernel:
    scale = np.float32(node.attr("scale"))
    return lambda context, inputs, weights: (weights[0][inputs[0]] * scale,)


def _linear(node: Node, plan: ExecutorPlan) -> Kernel:
    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        weight, bias = weights  # [out, in], [out] or None
        out = inputs[0] @ weight.T
        return (out if bias is None else out + bias,)

    return kernel


def _rms_norm(node: Node, plan: ExecutorPlan) -> Kernel:
    eps, offset = np.float32(node.attr("eps")), np.float32(node.attr("weight_offset"))

    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        return (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * (weights[0] + offset),)

    return kernel


def _layer_norm(node: Node, plan: ExecutorPlan) -> Kernel:
    eps = np.float32(node.attr("eps"))

    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        weight, bias = weights
        centered = inputs[0] - np.mean(inputs[0], axis=-1, keepdims=True)
        normed = centered / np.sqrt(np.mean(centered * centered, axis=-1, keepdims=True) + eps) * weight
        return (normed if bias is None else normed + bias,)

    return kernel


def _add(node: Node, plan: ExecutorPlan) -> Kernel:
    return lambda context, inputs, weights: (inputs[0] + inputs[1],)


def _scale(node: Node, plan: ExecutorPlan) -> Kernel:
    factor = np.float32(node.attr("factor"))
    return lambda context, inputs, weights: (inputs[0] * factor,)


def _softcap(node: Node, plan: ExecutorPlan) -> Kernel:
    cap = np.float32(node.attr("cap"))
    return lambda context, inputs, weights: (cap * np.tanh(inputs[0] / cap),)


def _activation(node: Node, plan: ExecutorPlan) -> Kernel:
    act = ACTIVATIONS[node.attr("act")]
    return lambda context, inputs, weights: (act(inputs[0]),)


def _gated_activation(node: Node, plan: ExecutorPlan) -> Kernel:
    act = ACTIVATIONS[node.attr("act")]
    return lambda context, inputs, weights: (act(inputs[0]) * inputs[1],)


def _split(node: Node, plan: ExecutorPlan) -> Kernel:
    ends, axis = np.cumsum(_sizes(node.attr("sizes"), plan))[:-1], node.attr("axis")
    return lambda context, inputs, weights: tuple(np.split(inputs[0], ends, axis=axis))


def _reshape(node: Node, plan: ExecutorPlan) -> Kernel:
    shape = _sizes(node.attr("shape"), plan)
    return lambda context, inputs, weights: (inputs[0].reshape(shape),)


def _take_rows(node: Node, plan: ExecutorPlan) -> Kernel:
    return lambda context, inputs, weights: (inputs[0][inputs[1]],)


def _rotary(node: Node, plan: ExecutorPlan) -> Kernel:
    """The tables come from Quire, so that all devices rotate by the same numbers."""
    spec = node.attr("table")
    cos, sin = rope_table(spec, plan.max_model_len)
    half = spec.dims // 2
    first, second = {"neox": (slice(0, half), slice(half, spec.dims)),
                     "gptj": (slice(0, spec.dims, 2), slice(1, spec.dims, 2))}[node.attr("style")]

    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        x, positions = inputs  # [T, H, d], int32 [T]
        c, s = cos[positions][:, None], sin[positions][:, None]
        rotated = x.copy()
        rotated[..., first] = x[..., first] * c - x[..., second] * s
        rotated[..., second] = x[..., second] * c + x[..., first] * s
        return (rotated,)

    return kernel


KERNELS: Mapping[str, Maker] = {
    "activation": _activation, "add": _add, "embedding": _embedding, "gated_activation": _gated_activation,
    "layer_norm": _layer_norm, "linear": _linear, "reshape": _reshape, "rms_norm": _rms_norm, "rotary": _rotary,
    "scale": _scale, "softcap": _softcap, "split": _split, "take_rows": _take_rows,
}
"""Op -> maker. Experts are left out on purpose: see the README for what becomes of a model that has some."""


def paged_attention(node: Node, gather: Gather) -> Kernel:
    """softmax(scale * q.k) v of every row over the keys that it sees, sequence by sequence."""
    scale, softcap = np.float32(node.attr("scale")), np.float32(node.attr("softcap"))
    window, causal = node.attr("window"), node.attr("causal")

    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        q, cache = inputs  # [T, H, d]
        out = np.zeros_like(q)
        starts, computed = context.device["query_start_loc"], context.device["num_computed"]
        for seq, table in enumerate(context.device[f"{cache.group}.block_tables"]):
            rows = slice(int(starts[seq]), int(starts[seq + 1]))
            index = np.arange(computed[seq], computed[seq] + rows.stop - rows.start)  # KV index of each row
            if len(index) == 0:
                continue
            keys = np.arange(max(0, index[0] - window + 1) if window else 0, index[-1] + 1)
            keys = keys[table[keys // context.block_size] >= 0]  # a block of -1 is not there any more
            k, v = gather(cache, table[keys // context.block_size], keys % context.block_size)
            seen = np.ones((len(index), len(keys)), bool)
            if causal:
                seen &= keys <= index[:, None]
            if window:
                seen &= keys > index[:, None] - window
            out[rows] = _attend(q[rows], k, v, seen, scale, softcap)
        return (out,)

    return kernel


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray, scale: np.float32,
            softcap: np.float32) -> np.ndarray:
    """q [n, H, d] over k, v [K, m, d]; seen bool [n, m]. Head h reads KV head h // (H / K)."""
    num_rows, num_heads, head_dim = q.shape
    grouped = q.reshape(num_rows, len(k), -1, head_dim).transpose(1, 2, 0, 3)  # [K, H/K, n, d]
    scores = grouped @ k[:, None].swapaxes(-1, -2) * scale  # [K, H/K, n, m]
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    scores = np.where(seen, scores, -np.inf)
    lowest, tiny = np.finfo(np.float32).min, np.finfo(np.float32).tiny  # a row that sees nothing gives 0
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=lowest))
    mixed = scores @ v[:, None] / np.maximum(scores.sum(axis=-1, keepdims=True), tiny)
    return mixed.transpose(2, 0, 1, 3).reshape(num_rows, num_heads, head_dim)


def _sizes(shape: tuple[Any, ...], plan: ExecutorPlan) -> tuple[int, ...]:
    """Sizes in ints; the one that depends on the step (T, S or L) is -1."""
    axes = plan.model.axis_sizes()
    known = [Dim.of(size).substitute(axes) for size in shape]
    return tuple(dim.evaluate({}) if dim.is_constant else -1 for dim in known)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is the right answer
        return np.float32(1) / (np.float32(1) + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return (x * (1 + _erf(x / math.sqrt(2))) / 2).astype(np.float32)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


_erf = np.frompyfunc(math.erf, 1, 1)

ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": lambda x: x * _sigmoid(x),
    "quick_gelu": lambda x: x * _sigmoid(np.float32(1.702) * x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
}
