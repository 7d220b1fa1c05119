"""Gives weights their quantization schemes: matrices of linears and experts, and embeddings tied to one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from quire.graph.ir import Graph, ModelGraph, Source, Weight
from quire.graph.rewrite import map_graphs

Role = Literal["linear", "head", "router", "experts"]

SchemeOf = Callable[[Weight, Role], str]
"""scheme_of(weight, role): "plain", or a scheme's name. A head is the linear of a head part; a router feeds
`route_experts`; experts are [experts, out, in]."""


def assign_schemes(model: ModelGraph, scheme_of: SchemeOf) -> ModelGraph:
    """The model with `Weight.scheme` set; comes before linears are merged, which only those of one scheme are.

    A matrix is asked for once, whoever shares it. Weights that stay in float32, norms, biases and tables that no
    linear shares stay plain.
    """
    chosen: dict[Source, str] = {}
    for source, (weight, role) in matrices(model).items():
        chosen[source] = scheme_of(weight, role)

    def assigned(graph: Graph) -> Graph:
        weights = {
            name: replace(weight, scheme=chosen[weight.source])
            if weight.source in chosen and not weight.keep_f32
            else weight
            for name, weight in graph.weights.items()
        }
        return replace(graph, weights=weights)

    return map_graphs(model, assigned)


def matrices(model: ModelGraph) -> dict[Source, tuple[Weight, Role]]:
    """Every matrix that may have a scheme, in the order of the graph, with what it does."""
    found: dict[Source, tuple[Weight, Role]] = {}
    heads = {id(head.graph) for head in model.heads.values()}
    for part in model.parts():
        for weight, role in _graph_matrices(part.graph, is_head=id(part.graph) in heads):
            if not weight.keep_f32:
                found.setdefault(weight.source, (weight, role))
    return found


def _graph_matrices(graph: Graph, *, is_head: bool) -> list[tuple[Weight, Role]]:
    routed = {node.inputs[0] for node in graph.nodes if node.op == "route_experts"}
    found: list[tuple[Weight, Role]] = []
    for node in graph.nodes:
        if node.op == "linear":
            role: Role = "head" if is_head else "router" if node.outputs[0] in routed else "linear"
            found.append((graph.weights[node.weights[0]], role))
        elif node.op == "experts":
            found += [(graph.weights[name], "experts") for name in node.weights if name]
    return found
