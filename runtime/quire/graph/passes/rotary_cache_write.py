"""`rotary` of q, `rotary` of k and `cache_write` become one `rotary_cache_write`."""

from __future__ import annotations

from quire.graph.ir import Graph, Node
from quire.graph.rewrite import GRAPH_OUTPUT, make_node, producers, rebuild, users


def fuse_rotary_cache_write(graph: Graph) -> Graph:
    """Fuses each cache_write of a rotated k that nothing else uses with the one other rotary of equal attributes
    and positions. The fused node stands where the last of the three stood, so that all its operands exist."""
    values = list(graph.values)
    fused: dict[int, Node] = {}
    absorbed: set[int] = set()
    for index, node in enumerate(graph.nodes):
        match = _match(graph, index) if node.op == "cache_write" else None
        if match is None or absorbed & set(match):
            continue
        q_index, k_index = match
        q, k = graph.nodes[q_index], graph.nodes[k_index]
        cache, _, v = node.inputs
        fused[max(*match, index)] = make_node(
            "rotary_cache_write",
            values,
            (q.inputs[0], k.inputs[0], v, k.inputs[1], cache),
            (),
            k.attrs,
            (*q.outputs, *node.outputs),
        )
        absorbed.update((*match, index))
    if not fused:
        return graph
    nodes = [fused.get(i, node) for i, node in enumerate(graph.nodes) if i in fused or i not in absorbed]
    return rebuild(graph, nodes=nodes)


def _match(graph: Graph, write_index: int) -> tuple[int, int] | None:
    """Indices of the rotary of q and the rotary of k that go with a cache_write, or None."""
    made_by, used_by = producers(graph), users(graph)
    k_index = made_by.get(graph.nodes[write_index].inputs[1], -1)
    if k_index < 0 or graph.nodes[k_index].op != "rotary" or len(used_by[graph.nodes[k_index].outputs[0]]) != 1:
        return None
    k = graph.nodes[k_index]
    others = [
        i
        for i, node in enumerate(graph.nodes)
        if i != k_index and node.op == "rotary" and node.attrs == k.attrs and node.inputs[1] == k.inputs[1]
    ]
    if len(others) != 1:
        return None
    last = max(others[0], k_index, write_index)
    results = (*graph.nodes[others[0]].outputs, *graph.nodes[write_index].outputs)
    if any(user != GRAPH_OUTPUT and user <= last for value in results for user in used_by[value]):
        return None
    return others[0], k_index
