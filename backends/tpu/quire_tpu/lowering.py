"""Graph nodes to JAX functions: attributes bound, axis sizes put in, steps' arrays taken from the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from quire.device.contract import ExecutorPlan
from quire.device.dtypes import numpy_dtype
from quire.errors import BackendError
from quire.graph.alibi import slopes_of_node
from quire.graph.ir import Graph, Node
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim
from quire.graph.value_dtypes import array_dtype
from quire_tpu import plain_ops
from quire_tpu.attention import cache_write, paged_attention
from quire_tpu.experts import experts, route_experts
from quire_tpu.step_state import StackedCache, StepState

JaxKernel = Callable[[StepState, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
Attention = Callable[..., jax.Array]
"""Called as `quire_tpu.attention.paged_attention`."""


def lower(node: Node, graph: Graph, plan: ExecutorPlan, attention: Attention = paged_attention) -> JaxKernel:
    """The node as a kernel of traced arrays. Raises BackendError for an op that is not here."""
    make = LOWERINGS.get(node.op)
    if make is None:
        raise BackendError(f"device tpu does not implement {node.op}", hint="another --device")
    return make(_Lowering(node, graph, plan, attention))


class _Lowering:
    """A node with what its kernel is made from."""

    def __init__(self, node: Node, graph: Graph, plan: ExecutorPlan, attention: Attention) -> None:
        self.node, self.graph, self.plan, self.attention = node, graph, plan, attention
        self.sizes = plan.model.axis_sizes()
        self.attrs: dict[str, Any] = dict(node.attrs)
        self.world_size = plan.parallel.world_size

    def dtype(self, output: int = 0) -> jnp.dtype:
        value = self.graph.values[self.node.outputs[output]]
        return jnp.dtype(numpy_dtype(array_dtype(value.dtype, self.plan.act_dtype)))

    def first(self, weight: str) -> Callable[[], jax.Array | None]:
        """Gives the rank's first row of a weight whose rows stand for ids, or None where they are not cut."""
        symbols = self.graph.weights[weight].shape[0].symbols
        cut = [axis for axis in (self.plan.model.axes[s] for s in symbols) if axis.full not in (None, axis.size)]
        if not cut:
            return lambda: None
        return lambda: (lax.axis_index(plain_ops.TP) * cut[0].size).astype(jnp.int32)

    def size(self, value: Any) -> int:
        return Dim.of(value).evaluate(self.sizes)

    def dimension(self, value: int, axis: int) -> int:
        return self.size(self.graph.values[value].shape[axis])


def _one(function: Callable[..., Any]) -> Callable[[_Lowering], JaxKernel]:
    """For ops whose function takes operands, weights and attributes as they stand."""

    def make(n: _Lowering) -> JaxKernel:
        def kernel(_: StepState, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
            result = function(*inputs, *weights, **n.attrs)
            return result if len(n.node.outputs) > 1 else (result,)

        return kernel

    return make


def _embedding(n: _Lowering) -> JaxKernel:
    dtype, first = n.dtype(), n.first(n.node.weights[0])
    return lambda _, x, w: (plain_ops.embedding(x[0], w[0], scale=n.attrs["scale"], dtype=dtype, first=first()),)


def _linear(n: _Lowering) -> JaxKernel:
    dtype = n.dtype()
    return lambda _, x, w: (plain_ops.linear(x[0], w[0], w[1], out_dtype=dtype),)


def _split(n: _Lowering) -> JaxKernel:
    axis, sizes = n.attrs["axis"], [n.size(size) for size in n.attrs["sizes"]]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return lambda _, x, w: tuple(jnp.split(x[0], ends, axis=axis))


def _reshape(n: _Lowering) -> JaxKernel:
    shape = [-1 if Dim.of(size).substitute(n.sizes).symbols else n.size(size) for size in n.attrs["shape"]]
    return lambda _, x, w: (x[0].reshape(shape),)


def _take_rows(n: _Lowering) -> JaxKernel:
    return lambda _, x, w: (jnp.take(x[0], x[1], axis=0, mode="clip"),)


def _rows_of(table: RopeSpec, state: StepState, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    cos, sin = state.rope[table]
    return jnp.take(cos, positions, axis=0, mode="clip"), jnp.take(sin, positions, axis=0, mode="clip")


def _rotary(n: _Lowering) -> JaxKernel:
    table, style = n.attrs["table"], n.attrs["style"]

    def kernel(state: StepState, x: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
        return (plain_ops.rotary(x[0], *_rows_of(table, state, x[1]), style=style),)

    return kernel


def _cache_write(n: _Lowering) -> JaxKernel:
    return lambda state, x, w: (cache_write(x[0], x[1], x[2], state),)


def _rotary_cache_write(n: _Lowering) -> JaxKernel:
    table, style = n.attrs["table"], n.attrs["style"]

    def kernel(state: StepState, x: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
        q, k, v, positions, cache = x
        cos, sin = _rows_of(table, state, positions)
        rotated = plain_ops.rotary(k, cos, sin, style=style)
        return plain_ops.rotary(q, cos, sin, style=style), cache_write(cache, rotated, v, state)

    return kernel


def _paged_attention(n: _Lowering) -> JaxKernel:
    n.attrs.pop("alibi", None)
    slopes = slopes_of_node(n.node, n.graph, n.plan.model.axes)

    def kernel(state: StepState, x: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        q, cache = x
        features: dict[str, jax.Array] = {"sinks": weights[0]} if weights else {}
        if slopes is not None:
            num_heads = q.shape[1]
            first = lax.axis_index(plain_ops.TP) * num_heads if len(slopes) > num_heads else 0
            features["alibi_slopes"] = lax.dynamic_slice_in_dim(jnp.asarray(slopes), first, num_heads)
        assert isinstance(cache, StackedCache)
        spec = n.plan.model.kv_groups[cache.group].arrays[0]
        return (n.attention(q, cache, state, num_kv_heads=n.size(spec.shape[0]), **features, **n.attrs),)

    return kernel


def _experts(n: _Lowering) -> JaxKernel:
    act, first = n.attrs["act"], n.first(n.node.weights[0])
    return lambda _, x, w: (experts(x[0], x[1], x[2], w[0], w[1], act=act, first=first()),)


def _all_reduce(n: _Lowering) -> JaxKernel:
    return lambda _, x, w: (plain_ops.all_reduce(x[0], w[0], world_size=n.world_size),)


def _all_gather(n: _Lowering) -> JaxKernel:
    axis, size = n.attrs["axis"], n.size(n.attrs["size"])
    return lambda _, x, w: (plain_ops.all_gather(x[0], axis=axis, size=size, world_size=n.world_size),)


LOWERINGS: Mapping[str, Callable[[_Lowering], JaxKernel]] = {
    "embedding": _embedding,
    "linear": _linear,
    "rms_norm": _one(plain_ops.rms_norm),
    "layer_norm": _one(plain_ops.layer_norm),
    "add": _one(plain_ops.add),
    "scale": _one(plain_ops.scale),
    "softcap": _one(plain_ops.softcap),
    "activation": _one(plain_ops.activation),
    "gated_activation": _one(plain_ops.gated_activation),
    "add_rms_norm": _one(plain_ops.add_rms_norm),
    "split": _split,
    "reshape": _reshape,
    "take_rows": _take_rows,
    "rotary": _rotary,
    "cache_write": _cache_write,
    "rotary_cache_write": _rotary_cache_write,
    "paged_attention": _paged_attention,
    "route_experts": _one(route_experts),
    "experts": _experts,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
}
