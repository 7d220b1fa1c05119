"""Graph nodes to reference kernels: binds attributes, axis sizes and the step's arrays to the numpy functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from quire.device.contract import ExecutorPlan, Kernel, StepContext
from quire.device.dtypes import numpy_dtype
from quire.errors import InternalError
from quire.graph.bound_attrs import bound_attrs
from quire.graph.ir import Graph, Node
from quire.graph.value_dtypes import array_dtype
from quire.ops import DECLARED, Op, RunContext
from quire.ops.rounding import round_to
from quire.reference import REFERENCE


def lower_reference(node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
    """The node as a kernel over numpy arrays; results have the dtypes that the graph declares."""
    function = REFERENCE.get(node.op)
    if function is None:
        raise InternalError(f"op {node.op} has no reference")
    op = DECLARED[node.op]
    attrs = _attributes(op, node, graph, plan)
    dtypes = _result_dtypes(node, graph, plan.act_dtype)
    cache_input = next((i for i, v in enumerate(node.inputs) if v >= 0 and graph.values[v].dtype == "cache"), None)

    def kernel(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
        if cache_input is None:
            return tuple(_results(function(*inputs, *weights, **attrs), dtypes, None))
        handle = inputs[cache_input]
        operands = (*inputs[:cache_input], handle.arrays, *inputs[cache_input + 1 :], *weights)
        results = function(*operands, **_step_arrays(op.step_keywords, context, handle.group), **attrs)
        return tuple(_results(results, dtypes, handle))

    return kernel


def _step_arrays(keywords: Mapping[str, str], context: StepContext, group: str) -> dict[str, Any]:
    return {name: context.device[array.format(group=group)] for name, array in keywords.items()}


def _attributes(op: Op, node: Node, graph: Graph, plan: ExecutorPlan) -> dict[str, Any]:
    """The function's keywords: node attributes with Dims evaluated, and what the run knows."""
    run = RunContext(
        node=node,
        graph=graph,
        axes=plan.model.axes,
        rank=plan.parallel.rank,
        world_size=plan.parallel.world_size,
        act_dtype=numpy_dtype(plan.act_dtype),
        max_model_len=plan.max_model_len,
    )
    attrs = bound_attrs(node, plan.model.axis_sizes())
    return {name: value for name, value in attrs.items() if name not in op.replaced} | op.run_keywords(run)


def _result_dtypes(node: Node, graph: Graph, act_dtype: str) -> tuple[np.dtype | None, ...]:
    """None for a cache."""
    dtypes = (graph.values[value].dtype for value in node.outputs)
    return tuple(None if dtype == "cache" else numpy_dtype(array_dtype(dtype, act_dtype)) for dtype in dtypes)


def _results(results: Any, dtypes: tuple[np.dtype | None, ...], handle: Any) -> Iterator[Any]:
    """Rounded to their dtypes; a cache goes on by its handle."""
    arrays = results if isinstance(results, tuple) else (results,)
    for array, dtype in zip(arrays, dtypes, strict=True):
        yield handle if dtype is None else round_to(array, dtype)
