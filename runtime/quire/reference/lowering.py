"""Graph nodes to reference kernels: binds attributes, axis sizes and the step's arrays to the numpy functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quire.device.contract import ExecutorPlan, Kernel, StepContext
from quire.device.dtypes import numpy_dtype
from quire.errors import InternalError
from quire.graph.alibi import slopes_of_rank
from quire.graph.bound_attrs import bound_attrs
from quire.graph.ir import Graph, Node
from quire.reference import REFERENCE
from quire.reference.rounding import round_to

_StepKeywords = Callable[[StepContext, str], dict[str, Any]]


def lower_reference(node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
    """The node as a kernel over numpy arrays; results have the dtypes that the graph declares."""
    function = REFERENCE.get(node.op)
    if function is None:
        raise InternalError(f"op {node.op} has no reference")
    attrs = _bound_attrs(node, graph, plan)
    dtypes = _result_dtypes(node, graph, plan.act_dtype)
    cache_input = next((i for i, v in enumerate(node.inputs) if v >= 0 and graph.values[v].dtype == "cache"), None)

    def kernel(_: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        return _results(function(*inputs, *weights, **attrs), dtypes)

    def cache_kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        assert cache_input is not None
        handle = inputs[cache_input]
        operands = (*inputs[:cache_input], handle.arrays, *inputs[cache_input + 1 :], *weights)
        step = _STEP_KEYWORDS[node.op](context, handle.group)
        results = function(*operands, **step, **attrs)
        if node.op == "cache_write":
            return (handle,)
        if node.op == "rotary_cache_write":
            return (round_to(results[0], dtypes[0]), handle)
        return _results(results, dtypes)

    return kernel if cache_input is None else cache_kernel


def _write_keywords(context: StepContext, group: str) -> dict[str, Any]:
    return {"slots": context.device[f"{group}.slots"]}


def _read_keywords(context: StepContext, group: str) -> dict[str, Any]:
    return {
        "block_tables": context.device[f"{group}.block_tables"],
        "query_start_loc": context.device["query_start_loc"],
        "num_computed": context.device["num_computed"],
    }


_STEP_KEYWORDS: Mapping[str, _StepKeywords] = {
    "cache_write": _write_keywords,
    "rotary_cache_write": _write_keywords,
    "paged_attention": _read_keywords,
}


def _bound_attrs(node: Node, graph: Graph, plan: ExecutorPlan) -> dict[str, Any]:
    """The function's keywords: node attributes with Dims evaluated, and what the plan knows."""
    attrs = bound_attrs(node, plan.model.axis_sizes())
    if node.op == "embedding":
        attrs["dtype"] = numpy_dtype(plan.act_dtype)
    elif node.op == "paged_attention":
        attrs.pop("alibi", None)
        attrs["alibi_slopes"] = slopes_of_rank(node, graph, plan.model.axes, plan.parallel.rank)
    elif node.op in ("rotary", "rotary_cache_write"):
        attrs["max_len"] = plan.max_model_len
    elif node.op in ("all_reduce", "all_gather"):
        attrs["world_size"] = plan.parallel.world_size
    return attrs


def _result_dtypes(node: Node, graph: Graph, act_dtype: str) -> tuple[np.dtype, ...]:
    names = {"act": act_dtype, "f32": "float32", "i32": "int32", "bool": "bool", "cache": act_dtype}
    return tuple(numpy_dtype(names[graph.values[v].dtype]) for v in node.outputs)


def _results(results: Any, dtypes: tuple[np.dtype, ...]) -> tuple[np.ndarray, ...]:
    arrays = results if isinstance(results, tuple) else (results,)
    return tuple(round_to(array, dtype) for array, dtype in zip(arrays, dtypes, strict=True))
