"""Around which values random weights of a model must spread for it to compute something sensible."""

from __future__ import annotations

from quire.graph.ir import ModelGraph, source_tensors
from quire.graph.op_table import OPS
from quire.graph.trace import node_args


def weight_centers(model: ModelGraph) -> dict[str, float]:
    """Checkpoint tensor -> centre, of the first weights of ops that say one (norms); the others spread around 0."""
    centers: dict[str, float] = {}
    for part in model.parts():
        for node in part.graph.nodes:
            center = OPS[node.op].weight_center
            if center is not None:
                value = center(node_args(part.graph, node))
                source = part.graph.weights[node.weights[0]].source
                centers.update({tensor.name: value for tensor in source_tensors(source)})
    return centers
