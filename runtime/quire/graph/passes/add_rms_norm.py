"""`add` followed by `rms_norm` becomes `add_rms_norm`, which gives both the sum and its norm."""

from __future__ import annotations

from quire.graph.ir import Graph, Node
from quire.graph.rewrite import GRAPH_OUTPUT, make_node, rebuild, users


def fuse_add_rms_norm(graph: Graph) -> Graph:
    """Fuses each add whose result has exactly one rms_norm user; the fused node stands where the add stood.

    Half of the pairs straddle a layer boundary and are seen only after `rotate`.
    """
    used_by, values = users(graph), list(graph.values)
    fused: dict[int, Node] = {}
    absorbed: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op != "add":
            continue
        norms = [i for i in used_by[node.outputs[0]] if i != GRAPH_OUTPUT and graph.nodes[i].op == "rms_norm"]
        if len(norms) == 1:
            norm = graph.nodes[norms[0]]
            fused[index] = make_node(
                "add_rms_norm",
                values,
                node.inputs,
                (graph.weights[norm.weights[0]],),
                norm.attrs,
                (*node.outputs, *norm.outputs),
            )
            absorbed.add(norms[0])
    if not fused:
        return graph
    return rebuild(graph, nodes=[fused.get(i, node) for i, node in enumerate(graph.nodes) if i not in absorbed])
