"""Tensor parallelism by substitution: the same graph with smaller axes, and collectives where sums are partial.

Shapes are written with axis symbols, so cutting an axis is replacing its size. What a rank then holds:

- a weight is read by cutting every `Src` by the axes in its own shape and joining afterwards (`axis_range`
  gives the range of each axis), which covers merged projections, replicated KV heads and padded vocabularies;
- a node that contracts a cut axis gives a partial sum, so `all_reduce` follows it, and carries a row-cut
  linear's bias, which is added once;
- a head's output that has a cut axis goes through `all_gather(axis, size)`, which keeps the first `size` entries
  (padding goes).

Every rank runs the same graph. Two ops must know their rank, because their weight's rows stand for ids:
`embedding` with a cut vocabulary and `experts` with a cut `ep` read row `id - axis_range(...)[0]` and give zero
for ids outside the range. `Axis.full` keeps the full sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quire.errors import ConfigError, InternalError
from quire.graph.ir import Axis, Graph, ModelGraph, Node, Part
from quire.graph.op_table import OPS
from quire.graph.rewrite import make_node, map_graphs, rebuild
from quire.graph.shapes import Dim
from quire.graph.trace import node_args


def cut_axes(axes: Mapping[str, Axis]) -> frozenset[str]:
    """The axes that tensor parallelism cuts by their policy."""
    return frozenset(name for name, axis in axes.items() if axis.policy != "whole")


def shard(model: ModelGraph, tp: int, *, cut: frozenset[str] | None = None) -> ModelGraph:
    """The graph that each of `tp` ranks runs; the same object for tp=1.

    Args:
        cut: axes to cut; None = every axis whose policy is not "whole".
            Expert parallelism: `ep` instead of the experts' `mlp`.
    Raises: ConfigError naming the axis that `tp` ranks cannot divide, or an op that cannot be cut.
    """
    if tp == 1:
        return model
    if any(axis.full is not None for axis in model.axes.values()):
        raise InternalError("this model's axes are cut already")
    wanted = cut_axes(model.axes) if cut is None else cut
    axes = {name: _cut_axis(name, axis, tp) if name in wanted else axis for name, axis in model.axes.items()}
    shared = frozenset(name for name, axis in axes.items() if axis.full is not None and axis.full < tp)
    local = replace(map_graphs(model, lambda graph: _reduce_partial_sums(graph, axes, shared)), axes=axes)
    return replace(local, heads={name: _gather_outputs(head, axes) for name, head in local.heads.items()})


def axis_range(axis: Axis, rank: int, world_size: int) -> tuple[int, int]:
    """[start, stop) of an axis' full range that a rank holds; `axis.size - (stop - start)` zeros follow (padding)."""
    if axis.full is None:
        return 0, axis.size
    if axis.policy == "replicate_if_fewer" and axis.full < world_size:
        start = rank * axis.full // world_size
    else:
        start = min(rank * axis.size, axis.full)
    return start, min(start + axis.size, axis.full)


def _cut_axis(name: str, axis: Axis, tp: int) -> Axis:
    if axis.policy == "pad":
        return replace(axis, size=-(-axis.size // tp), full=axis.size)
    if axis.size % tp == 0:
        return replace(axis, size=axis.size // tp, full=axis.size)
    if axis.policy == "replicate_if_fewer" and tp % axis.size == 0:
        return replace(axis, size=1, full=axis.size)
    fitting = [str(n) for n in range(1, tp + 1) if axis.size % n == 0]
    raise ConfigError(
        f"tensor_parallel_size={tp} does not divide {name}={axis.size}",
        because=f"every device must hold the same number of {name}",
        hint=f"--tensor-parallel-size {' or '.join(fitting)}",
    )


def _cut_symbols(dims: tuple[Dim, ...], axes: Mapping[str, Axis]) -> list[str]:
    return sorted({s for dim in dims for s in dim.symbols if s in axes and axes[s].full not in (None, axes[s].size)})


def _reduce_partial_sums(graph: Graph, axes: Mapping[str, Axis], shared: frozenset[str]) -> Graph:
    values, nodes = list(graph.values), list[Node]()
    reduced: dict[int, int] = {-1: -1}
    for node in graph.nodes:
        args = node_args(graph, node)
        contracted = _cut_symbols(OPS[node.op].contracts(args), axes)
        _refuse_uncuttable(node, _cut_symbols(args.shape(0)[-1:], axes), shared.intersection(contracted))
        node = replace(node, inputs=tuple(reduced.get(v, v) for v in node.inputs))
        if not contracted:
            nodes.append(node)
            continue
        bias = None
        if node.op == "linear" and node.weights[1]:
            bias = graph.weights[node.weights[1]]
            node = replace(node, weights=(node.weights[0], ""))
        collective = make_node("all_reduce", values, node.outputs, (bias,))
        nodes += [node, collective]
        reduced[node.outputs[0]] = collective.outputs[0]
    if len(reduced) == 1:
        return graph
    outputs = [(name, reduced.get(value, value)) for name, value in graph.outputs]
    return rebuild(graph, values=values, nodes=nodes, outputs=outputs)


def _refuse_uncuttable(node: Node, cut_columns: list[str], shared_sums: frozenset[str]) -> None:
    if OPS[node.op].reads_whole_rows and cut_columns:
        raise ConfigError(
            f"op {node.op} over {cut_columns[0]} cannot run on several devices",
            because=f"it needs the mean over all {cut_columns[0]}, of which each device holds a part",
            hint="--tensor-parallel-size 1",
        )
    if shared_sums:
        raise InternalError(
            f"op {node.op} sums over {', '.join(sorted(shared_sums))}",
            because="ranks share it, so their sum would count it more than once",
        )


def _gather_outputs(head: Part, axes: Mapping[str, Axis]) -> Part:
    graph = head.graph
    values, nodes, outputs = list(graph.values), list(graph.nodes), list[tuple[str, int]]()
    for name, value in graph.outputs:
        for position, dim in enumerate(graph.values[value].shape):
            if _cut_symbols((dim,), axes):
                size = dim.substitute({axis: axes[axis].full_size for axis in dim.symbols if axis in axes})
                node = make_node("all_gather", values, (value,), (), (("axis", position), ("size", size)))
                nodes.append(node)
                value = node.outputs[0]
        outputs.append((name, value))
    if len(nodes) == len(graph.nodes):
        return head
    return replace(head, graph=rebuild(graph, values=values, nodes=nodes, outputs=outputs))
