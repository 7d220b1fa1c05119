"""Where a linear and what follows it are one native call, so that its result is never written.

`gated_linear`: linear, the split of its result in halves, gated activation. A thread makes some columns of gate and up
and multiplies them while they lie in its caches. `linear_add`: linear and the addition of an add_rms_norm, whose norm
follows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quire.graph.ir import Graph
from quire.graph.memory import Place


def gates_its_halves(
    graph: Graph, index: int, shapes: Mapping[int, tuple[int, ...]], places: Mapping[int, Place], panel_columns: int
) -> bool:
    """Whether nodes index, index + 1 and index + 2 are linear, split and gated_activation that can be one call.

    Nobody else may read what lies between, the gate must be the first half, and a half must be whole panels of the
    packed weight: its width a multiple of `panel_columns`. The result must take the place of the linear's,
    as the memory plan has it: no other place is known to be free while the linear still reads its input.
    """
    nodes = graph.nodes[index : index + 3]
    if [node.op for node in nodes] != ["linear", "split", "gated_activation"]:
        return False
    linear, split, gated = nodes
    merged, result = linear.outputs[0], gated.outputs[0]
    if tuple(split.inputs) != (merged,) or len(split.outputs) != 2 or tuple(gated.inputs) != tuple(split.outputs):
        return False
    if _read_elsewhere(graph, (merged, *split.outputs), (index + 1, index + 2)):
        return False
    shape = shapes[result]
    halves = len(shapes[merged]) == 2 and shapes[split.outputs[0]] == shapes[split.outputs[1]] == shape
    return halves and shape[1] % panel_columns == 0 and places[result].base == merged


def added_operand(
    graph: Graph, index: int, shapes: Mapping[int, tuple[int, ...]], places: Mapping[int, Place]
) -> int | None:
    """If nodes index and index + 1 are linear and add_rms_norm that can be linear_add and rms_norm: the position of
    the operand that is added to the linear's result; else None.

    Nobody else may read the linear's result, and the sum must take its place or that of the operand: those are free
    when the linear runs, or are for each element that it makes.
    """
    nodes = graph.nodes[index : index + 2]
    if [node.op for node in nodes] != ["linear", "add_rms_norm"]:
        return None
    linear, normed = nodes
    result, total = linear.outputs[0], normed.outputs[0]
    if result not in normed.inputs or _read_elsewhere(graph, (result,), (index + 1,)):
        return None
    position = 1 - normed.inputs.index(result)
    residual = normed.inputs[position]
    if residual == result or len(shapes[result]) != 2:
        return None
    if _same_place(places[total], places[result]):
        return position
    apart = places[linear.inputs[0]].base != places[residual].base
    return position if apart and _same_place(places[total], places[residual]) else None


def _same_place(a: Place, b: Place) -> bool:
    return (a.external, a.offset_bytes, a.row_stride) == (b.external, b.offset_bytes, b.row_stride)


def _read_elsewhere(graph: Graph, values: Sequence[int], readers: Sequence[int]) -> bool:
    """Whether a value is an output of the graph or an input of another node than those at `readers`."""
    outside = [node for at, node in enumerate(graph.nodes) if at not in readers]
    outputs = {value for _, value in graph.outputs}
    return any(value in outputs or any(value in node.inputs for node in outside) for value in values)
