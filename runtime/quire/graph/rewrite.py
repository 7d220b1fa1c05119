"""What every pass needs to change a graph: who makes a value, who uses it, and a clean graph at the end.

A pass works on plain lists of nodes. Value ids may be sparse and weights superfluous while it does;
`rebuild` drops what nothing needs and numbers values densely again (inputs first, then results in
execution order), so that equal layers stay equal after a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from quire.errors import InternalError
from quire.graph.ir import Attrs, Graph, ModelGraph, Node, Part, Value, Weight
from quire.graph.op_spec import OpArgs
from quire.graph.op_table import OPS

GraphPass = Callable[[Graph], Graph]

GRAPH_OUTPUT = -1
"""Stands among a value's users for "it is a named output of the graph"."""


def producers(graph: Graph) -> dict[int, int]:
    """Value id -> index of the node that makes it; graph inputs are absent."""
    return {value: index for index, node in enumerate(graph.nodes) for value in node.outputs}


def users(graph: Graph) -> dict[int, list[int]]:
    """Value id -> indices of the nodes that take it, in order and once per operand; GRAPH_OUTPUT for a named output."""
    found: dict[int, list[int]] = {value.id: [] for value in graph.values}
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            if value >= 0:
                found[value].append(index)
    for _, value in graph.outputs:
        found[value].append(GRAPH_OUTPUT)
    return found


def make_node(
    op: str,
    values: list[Value],
    inputs: Sequence[int],
    weights: Sequence[Weight | None] = (),
    attrs: Attrs = (),
    outputs: Sequence[int] | None = None,
) -> Node:
    """A node whose shapes are checked by its op; `values` grows by its results unless `outputs` names existing ones."""
    spec = OPS[op]
    padded_inputs = (*inputs, *(-1,) * (len(spec.inputs) - len(inputs)))
    padded_weights = (*weights, *(None,) * (len(spec.weights) - len(weights)))
    operands = tuple(None if i < 0 else values[i] for i in padded_inputs)
    args = OpArgs(operands, padded_weights, spec.resolve_attrs(dict(attrs)))
    results = spec.shape(args)
    if outputs is None:
        outputs = tuple(range(len(values), len(values) + len(results)))
        values.extend(Value(i, shape, dtype) for i, (shape, dtype) in zip(outputs, results, strict=True))
    for value, result in zip(outputs, results, strict=True):
        if (values[value].shape, values[value].dtype) != result:
            raise InternalError(f"a pass made {op} with result {result} in place of {values[value]}")
    return spec.node(args, tuple(outputs))


def rebuild(
    graph: Graph,
    *,
    values: Iterable[Value] | None = None,
    nodes: Iterable[Node] | None = None,
    inputs: Iterable[tuple[str, int]] | None = None,
    outputs: Iterable[tuple[str, int]] | None = None,
    weights: Mapping[str, Weight] | None = None,
) -> Graph:
    """A graph with the given fields replaced: values that nothing makes and weights that nothing reads are dropped,
    ids are dense, weights stand in order of first use."""
    known = {value.id: value for value in (graph.values if values is None else values)}
    kept = tuple(graph.nodes if nodes is None else nodes)
    named_inputs = tuple(graph.inputs if inputs is None else inputs)
    named_outputs = tuple(graph.outputs if outputs is None else outputs)
    pool = graph.weights if weights is None else weights
    order = [value for _, value in named_inputs] + [value for node in kept for value in node.outputs]
    dense = {old: new for new, old in enumerate(order)} | {-1: -1}
    if len(dense) != len(order) + 1:
        raise InternalError("a pass made one value twice")
    return Graph(
        values=tuple(replace(known[old], id=dense[old]) for old in order),
        inputs=tuple((name, dense[value]) for name, value in named_inputs),
        outputs=tuple((name, dense[value]) for name, value in named_outputs),
        nodes=tuple(
            replace(node, inputs=tuple(dense[v] for v in node.inputs), outputs=tuple(dense[v] for v in node.outputs))
            for node in kept
        ),
        weights={name: pool[name] for node in kept for name in node.weights if name},
    )


def map_graphs(model: ModelGraph, change: GraphPass) -> ModelGraph:
    """The model with every part's graph put through `change`; equal graph objects are changed once."""
    done: dict[int, Graph] = {}

    def changed(part: Part) -> Part:
        if id(part.graph) not in done:
            done[id(part.graph)] = change(part.graph)
        return replace(part, graph=done[id(part.graph)])

    return replace(
        model,
        embed=changed(model.embed),
        layers=tuple(changed(layer) for layer in model.layers),
        heads={name: changed(head) for name, head in model.heads.items()},
    )
