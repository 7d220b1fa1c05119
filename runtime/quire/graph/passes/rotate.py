"""Moves each layer's first norm to the end of the part before it, so that the add there and the norm can fuse.

After it embed gives `hidden` (the residual stream) and `normed` (what the first layer reads), each layer
takes and gives both, and the logits head takes rows of `normed`. The last layer carries the head's norm: one
norm of T rows instead of L, a small price, so that all layers stay equal and can be scanned as one body.
Where the head's norm is not of the layers' kind (or there is none), it stays in the head and the last layer ends
plain. Cut a pipeline into stages before this pass, or two values cross each boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.graph.ir import Attrs, Graph, ModelGraph, Node, Part, Weight
from quire.graph.rewrite import make_node, rebuild, users

HIDDEN, NORMED = "hidden", "normed"


@dataclass(frozen=True, slots=True)
class _FirstNorm:
    """The rms_norm that reads a part's `hidden`, at `index`; `weight` under its local name there."""

    index: int
    attrs: Attrs
    weight: Weight

    def kind(self) -> tuple[object, ...]:
        """What must be equal for two parts that end in such norms to stay equal; not the weight's own name."""
        return (self.attrs, self.weight.shape, self.weight.scheme, self.weight.keep_f32)


def rotate(model: ModelGraph) -> ModelGraph:
    """The rotated model; the same object where its layers do not each begin with one rms_norm of `hidden`."""
    norms = [_first_norm(layer.graph) for layer in model.layers]
    if not norms or any(norm is None for norm in norms) or HIDDEN not in dict(model.embed.graph.outputs):
        return model
    first = [norm for norm in norms if norm is not None]
    heads, head_norm = _rotate_heads(model.heads, first[-1])
    following: list[_FirstNorm | None] = [*first[1:], head_norm]
    layers = tuple(
        replace(layer, graph=_append_norm(_take_normed(layer.graph, norm.index), after))
        for layer, norm, after in zip(model.layers, first, following, strict=True)
    )
    return replace(
        model, embed=replace(model.embed, graph=_append_norm(model.embed.graph, first[0])), layers=layers, heads=heads
    )


def _first_norm(graph: Graph) -> _FirstNorm | None:
    """The only rms_norm among the users of input `hidden`."""
    value = dict(graph.inputs).get(HIDDEN)
    if value is None or HIDDEN not in dict(graph.outputs):
        return None
    norms = sorted({i for i in users(graph)[value] if i >= 0 and graph.nodes[i].op == "rms_norm"})
    if len(norms) != 1:
        return None
    node = graph.nodes[norms[0]]
    return _FirstNorm(norms[0], node.attrs, graph.weights[node.weights[0]])


def _take_normed(graph: Graph, norm_index: int) -> Graph:
    """The graph without that norm; its result becomes the input `normed`."""
    normed = graph.nodes[norm_index].outputs[0]
    nodes = [node for index, node in enumerate(graph.nodes) if index != norm_index]
    return rebuild(graph, nodes=nodes, inputs=_insert_after_hidden(graph.inputs, normed))


def _append_norm(graph: Graph, norm: _FirstNorm | None) -> Graph:
    """The graph with output `normed`, the given norm of its output `hidden`."""
    if norm is None:
        return graph
    values, weight = list(graph.values), replace(norm.weight, name=f"next.{norm.weight.name}")
    node = make_node("rms_norm", values, (dict(graph.outputs)[HIDDEN],), (weight,), norm.attrs)
    return rebuild(
        graph,
        values=values,
        nodes=[*graph.nodes, node],
        weights={**graph.weights, weight.name: weight},
        outputs=_insert_after_hidden(graph.outputs, node.outputs[0]),
    )


def _insert_after_hidden(named: tuple[tuple[str, int], ...], normed: int) -> list[tuple[str, int]]:
    at = [name for name, _ in named].index(HIDDEN) + 1
    return [*named[:at], (NORMED, normed), *named[at:]]


def _rotate_heads(heads: Mapping[str, Part], layer_norm: _FirstNorm) -> tuple[dict[str, Part], _FirstNorm | None]:
    """Heads that read `normed` where the first head's norm is of the layers' kind, and that norm.

    Other heads share it only when they begin with the very same norm; the rest go on reading `hidden`.
    """
    found = {name: norm for name, head in heads.items() if (norm := _head_norm(head.graph)) is not None}
    shared = next((norm for norm in found.values() if norm.kind() == layer_norm.kind()), None)
    if shared is None:
        return dict(heads), None
    # All layers' weights carry one local name, or the last layer would differ from the others.
    moved = replace(shared, weight=replace(shared.weight, name=layer_norm.weight.name))
    rotated = {
        name: replace(head, graph=_head_from_normed(head.graph, found[name].index))
        if name in found and (found[name].kind(), found[name].weight.source) == (shared.kind(), shared.weight.source)
        else head
        for name, head in heads.items()
    }
    return rotated, moved


def _head_norm(graph: Graph) -> _FirstNorm | None:
    """The rms_norm of `hidden`, directly or after take_rows (a norm works row by row, so the two commute)."""
    value, used_by = dict(graph.inputs).get(HIDDEN), users(graph)
    while value is not None and len(used_by[value]) == 1 and used_by[value][0] >= 0:
        index = used_by[value][0]
        node = graph.nodes[index]
        if node.op == "rms_norm":
            return _FirstNorm(index, node.attrs, graph.weights[node.weights[0]])
        value = node.outputs[0] if node.op == "take_rows" and node.inputs[0] == value else None
    return None


def _head_from_normed(graph: Graph, norm_index: int) -> Graph:
    norm = graph.nodes[norm_index]
    source, result = norm.inputs[0], norm.outputs[0]

    def renamed(node: Node) -> Node:
        return replace(node, inputs=tuple(source if value == result else value for value in node.inputs))

    nodes = [renamed(node) for index, node in enumerate(graph.nodes) if index != norm_index]
    return rebuild(
        graph,
        nodes=nodes,
        inputs=[(NORMED if name == HIDDEN else name, value) for name, value in graph.inputs],
        outputs=[(name, source if value == result else value) for name, value in graph.outputs],
    )
