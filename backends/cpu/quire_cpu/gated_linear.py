"""Where a linear, the split of its result in halves and a gated activation are one native call, `gated_linear`.

[T, 2F] of gate and up is never written then: a thread makes some columns of both and multiplies them while they lie
in its caches.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.graph.ir import Graph
from quire.graph.memory import Place


def gates_its_halves(graph: Graph, index: int, shapes: Mapping[int, tuple[int, ...]], places: Mapping[int, Place],
                     panel_columns: int) -> bool:
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
    between = {merged, *split.outputs}
    outside = [node for at, node in enumerate(graph.nodes) if at not in (index + 1, index + 2)]
    if any(between.intersection(node.inputs) for node in outside) or between & {value for _, value in graph.outputs}:
        return False
    shape = shapes[result]
    halves = len(shapes[merged]) == 2 and shapes[split.outputs[0]] == shapes[split.outputs[1]] == shape
    return halves and shape[1] % panel_columns == 0 and places[result].base == merged
