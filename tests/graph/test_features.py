"""Operands and attributes that came after their op: a node shows them only where it uses them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.errors import InternalError
from quire.graph.ir import CacheArray, CacheRef, Node, Part, Src
from quire.graph.op_spec import features_used
from quire.graph.ops import OPS
from quire.graph.passes import verify
from quire.graph.rewrite import make_node
from quire.graph.shapes import Dim, T, shape_of
from quire.graph.trace import Tracer, node_args


def _attention(sinks: bool = False, **attrs: float) -> Part:
    t = Tracer()
    cache = t.cache("kv", CacheRef("full", 0))
    weight = t.weight("sinks", (4,), Src("sinks", shape_of(4))) if sinks else None
    t.output("out", t.paged_attention(t.input("q", (T, 4, 8)), cache, weight, scale=1.0, **attrs))
    return t.part("layer.")


def test_a_feature_with_its_default_leaves_no_trace() -> None:
    for part in (_attention(), _attention(alibi=0.0, v_head_dim=0)):
        (node,) = part.graph.nodes
        assert node.attrs == (("causal", True), ("scale", 1.0), ("softcap", 0.0), ("window", 0))
        assert node.weights == ()
        assert features_used(OPS[node.op], node) == ()
    remade = make_node("paged_attention", list(part.graph.values), node.inputs, (), node.attrs, node.outputs)
    assert remade == node


def test_a_feature_in_use_is_in_the_node() -> None:
    part = _attention(sinks=True, alibi=8.0)
    (node,) = part.graph.nodes
    assert node.weights == ("sinks",)
    assert node.attr("alibi") == 8.0
    assert features_used(OPS[node.op], node) == ("paged_attention.sinks", "paged_attention.alibi")


def test_an_absent_feature_is_read_with_its_default() -> None:
    (node,) = _attention().graph.nodes
    assert node.attr("alibi", 0.0) == 0.0
    with pytest.raises(KeyError, match="paged_attention has no attribute alibi"):
        node.attr("alibi")


def test_rules_see_every_operand_and_attribute() -> None:
    graph = _attention().graph
    args = node_args(graph, graph.nodes[0])
    assert args.weights == (None,)
    assert (args.attrs["alibi"], args.attrs["v_head_dim"]) == (0.0, 0)


def test_attention_has_the_width_of_v() -> None:
    graph = _attention(v_head_dim=24).graph
    assert graph.values[graph.nodes[0].outputs[0]].shape == shape_of(T, 4, 24)
    flops = OPS["paged_attention"].flops(node_args(graph, graph.nodes[0]))
    assert flops == Dim.of("T") * 4 * (8 + 24) * Dim.of("C") * 2


def test_verify_refuses_a_feature_that_is_spelled_out_unused(tiny) -> None:
    model = tiny("qwen3")

    def spelled(node: Node) -> Node:
        return replace(node, attrs=(("alibi", 0.0), *node.attrs)) if node.op == "paged_attention" else node

    layer = model.layers[0]
    graph = replace(layer.graph, nodes=tuple(spelled(node) for node in layer.graph.nodes))
    with pytest.raises(InternalError, match="is not written as"):
        verify(replace(model, layers=(replace(layer, graph=graph), *model.layers[1:])))


def test_verify_refuses_attention_of_another_width_than_its_cache(tiny) -> None:
    model = tiny("qwen3")
    group = model.kv_groups["full"]
    arrays = tuple(CacheArray(a.name, (a.shape[0], Dim.of(5))) if a.name == "v" else a for a in group.arrays)
    with pytest.raises(InternalError, match="gives heads of 8, its cache holds v of 5"):
        verify(replace(model, kv_groups={"full": replace(group, arrays=arrays)}))
