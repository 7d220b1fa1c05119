"""Linears that read the same value become one linear and a `split`: q, k and v; gate and up.

The merged weight is a source expression, `Cat` of the old sources: the loader cuts each part by its
own shape for its rank and then joins, so no merged copy exists in a checkpoint. After this pass
operands are strided views of the joined result.
"""

from __future__ import annotations

from quire.graph.ir import Cat, Graph, Node, Source, Value, Weight
from quire.graph.rewrite import make_node, rebuild
from quire.graph.shapes import Dim


def merge_linears(graph: Graph, cuttable: frozenset[str]) -> Graph:
    """Merges every group of linears with one input value, attributes, scheme, precision, cut class and bias presence.

    Args:
        cuttable: axes that tensor parallelism cuts (`quire.graph.shard.cut_axes`). The cut class keeps a router
            or a shared expert's gate, whose outputs no rank cuts, apart from projections whose outputs are cut.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, node in enumerate(graph.nodes):
        if node.op == "linear":
            groups.setdefault(_merge_key(graph, node, cuttable), []).append(index)
    mergeable = [indices for indices in groups.values() if len(indices) > 1]
    if not mergeable:
        return graph
    values, weights = list(graph.values), dict(graph.weights)
    new_nodes: dict[int, tuple[Node, ...]] = {}
    for indices in mergeable:
        new_nodes.update(dict.fromkeys(indices[1:], ()))
        new_nodes[indices[0]] = _merge([graph.nodes[i] for i in indices], values, weights)
    nodes = [new for index, node in enumerate(graph.nodes) for new in new_nodes.get(index, (node,))]
    return rebuild(graph, values=values, nodes=nodes, weights=weights)


def _merge_key(graph: Graph, node: Node, cuttable: frozenset[str]) -> tuple[object, ...]:
    weight, has_bias = graph.weights[node.weights[0]], bool(node.weights[1])
    bias_f32 = has_bias and graph.weights[node.weights[1]].keep_f32
    is_cut = bool(weight.shape[0].symbols & cuttable)
    return (node.inputs[0], node.attrs, weight.scheme, weight.keep_f32, has_bias, bias_f32, is_cut)


def _merge(linears: list[Node], values: list[Value], weights: dict[str, Weight]) -> tuple[Node, Node]:
    """The joined linear and the split that yields the old results; stands where the first linear stood."""
    weight = _join([weights[node.weights[0]] for node in linears])
    bias = _join([weights[node.weights[1]] for node in linears]) if linears[0].weights[1] else None
    weights.update({joined.name: joined for joined in (weight, bias) if joined})
    linear = make_node("linear", values, linears[0].inputs, (weight, bias), linears[0].attrs)
    old_results = tuple(node.outputs[0] for node in linears)
    sizes = tuple(values[value].shape[-1] for value in old_results)
    return linear, make_node("split", values, linear.outputs, (), (("sizes", sizes),), old_results)


def _join(parts: list[Weight]) -> Weight:
    rows = sum((part.shape[0] for part in parts), Dim.of(0))
    sources: tuple[Source, ...] = tuple(part.source for part in parts)
    return Weight(
        "+".join(part.name for part in parts),
        (rows, *parts[0].shape[1:]),
        Cat(sources, 0),
        parts[0].scheme,
        parts[0].keep_f32,
    )
