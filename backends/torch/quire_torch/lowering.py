"""Graph nodes to torch kernels: binds attributes, axis sizes and the step's arrays to the functions of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from quire.device.contract import CacheHandle, ExecutorPlan, Kernel, StepContext
from quire.graph.alibi import slopes_of_rank
from quire.graph.bound_attrs import bound_attrs
from quire.graph.ir import Graph, Node
from quire.graph.rope import RopeSpec, rope_rows, rope_table
from quire.graph.value_dtypes import array_dtype
from quire_torch import elementwise, experts, linear, norms
from quire_torch.attention import cache_write
from quire_torch.rotary import rotary
from quire_torch.step_memo import StepMemo
from quire_torch.tensors import torch_dtype

KERNELS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        elementwise.activation,
        elementwise.add,
        elementwise.all_gather,
        elementwise.all_reduce,
        elementwise.gated_activation,
        elementwise.reshape,
        elementwise.scale,
        elementwise.softcap,
        elementwise.split,
        elementwise.take_rows,
        experts.experts,
        experts.route_experts,
        linear.embedding,
        linear.linear,
        norms.add_rms_norm,
        norms.layer_norm,
        norms.rms_norm,
    )
}
"""The ops that need nothing but their operands and attributes: op name -> torch function."""


class Attention(Protocol):
    """One way to attend over paged caches: in plain torch, or by a kernel."""

    def __call__(
        self,
        context: StepContext,
        q: torch.Tensor,
        cache: CacheHandle,
        *,
        scale: float,
        window: int,
        softcap: float,
        causal: bool,
        sinks: torch.Tensor | None = None,
        slopes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[T, H, dv] in q's dtype.

        Args:
            sinks: [H] logits of a key without a value. slopes: float32 [H] of ALiBi.
        """


class Lowering:
    """Makes the kernels of one executor."""

    def __init__(self, put: Callable[[np.ndarray], torch.Tensor], attention: Attention, memo: StepMemo) -> None:
        self._put, self._attention, self._memo = put, attention, memo
        self._tables: dict[tuple[RopeSpec, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def kernel(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:
        """The node as a kernel; None for an op that this library does not know."""
        attrs = _bound_attrs(node, plan)
        if node.op == "cache_write":
            return self._cache_write()
        if node.op == "paged_attention":
            return self._paged_attention(attrs, slopes_of_rank(node, graph, plan.model.axes, plan.parallel.rank))
        if node.op == "rotary":
            return self._rotary(attrs["table"], attrs["style"], plan.max_model_len)
        if node.op == "rotary_cache_write":
            return self._rotary_cache_write(attrs["table"], attrs["style"], plan.max_model_len)
        function = KERNELS.get(node.op)
        if function is None:
            return None
        dtypes = _result_dtypes(node, graph, plan.act_dtype)

        def kernel(_: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
            results = function(*inputs, *weights, **attrs)
            tensors = results if isinstance(results, tuple) else (results,)
            return tuple(tensor.to(dtype) for tensor, dtype in zip(tensors, dtypes, strict=True))

        return kernel

    def _cache_write(self) -> Kernel:
        def kernel(context: StepContext, inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
            cache, k, v = inputs
            cache_write(cache.arrays, k, v, self._slots(context, cache))
            return (cache,)

        return kernel

    def _paged_attention(self, attrs: dict[str, Any], alibi_slopes: np.ndarray | None) -> Kernel:
        slopes = None if alibi_slopes is None else self._put(alibi_slopes)
        attrs.pop("alibi", None)

        def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
            q, cache = inputs
            sinks = weights[0] if weights else None
            return (self._attention(context, q, cache, sinks=sinks, slopes=slopes, **attrs),)

        return kernel

    def _rotary(self, table: RopeSpec, style: str, max_len: int) -> Kernel:
        def kernel(context: StepContext, inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
            x, positions = inputs
            return (rotary(x, *self._rope_rows(context, positions, table, max_len), style=style),)

        return kernel

    def _rotary_cache_write(self, table: RopeSpec, style: str, max_len: int) -> Kernel:
        def kernel(context: StepContext, inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
            q, k, v, positions, cache = inputs
            rows = self._rope_rows(context, positions, table, max_len)
            cache_write(cache.arrays, rotary(k, *rows, style=style), v, self._slots(context, cache))
            return rotary(q, *rows, style=style), cache

        return kernel

    def _slots(self, context: StepContext, cache: CacheHandle) -> torch.Tensor:
        """int64 [T]; rows whose block is not resident go to the block behind the last one."""
        num_slots = cache.arrays["k"].shape[0] * context.block_size

        def make() -> torch.Tensor:
            slots = context.device[f"{cache.group}.slots"].long()
            return torch.where(slots < 0, num_slots - 1, slots)

        return self._memo.get(context, ("slots", cache.group, num_slots), make)

    def _rope_rows(
        self, context: StepContext, positions: torch.Tensor, table: RopeSpec, max_len: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin at the tokens' positions, float32 [T, 1, r/2], shared by the layers of a step."""
        num_rows = rope_rows(_most_positions(context), max_len)
        key = table, num_rows
        if key not in self._tables:
            for known in [known for known in self._tables if known[0] == table and known[1] < num_rows]:
                del self._tables[known]
            cos, sin = rope_table(table, num_rows)
            self._tables[key] = self._put(cos), self._put(sin)

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            cos, sin = self._tables[key]
            return cos[positions][:, None, :], sin[positions][:, None, :]

        if positions is not context.device["positions"]:
            return make()
        return self._memo.get(context, ("rope", *key), make)


def _most_positions(context: StepContext) -> int:
    """One more than the highest position of the step."""
    batch = context.batch
    return int((batch.seq_lens if batch.positions is None else batch.positions + 1).max())


def _bound_attrs(node: Node, plan: ExecutorPlan) -> dict[str, Any]:
    """The function's keywords: node attributes with Dims evaluated, and what the plan knows."""
    attrs = bound_attrs(node, plan.model.axis_sizes())
    if node.op == "embedding":
        attrs["dtype"] = torch_dtype(plan.act_dtype)
    elif node.op in ("all_reduce", "all_gather"):
        attrs["world_size"] = plan.parallel.world_size
    return attrs


def _result_dtypes(node: Node, graph: Graph, act_dtype: str) -> tuple[torch.dtype, ...]:
    return tuple(torch_dtype(array_dtype(graph.values[v].dtype, act_dtype)) for v in node.outputs)
