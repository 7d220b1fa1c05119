from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.errors import InternalError
from quire.graph.ir import Axis, Cat, Graph, ModelGraph, Src, source_tensors
from quire.graph.ops import FUSED_OPS
from quire.graph.passes import merge_linears, optimize, rotate, verify
from quire.graph.segments import segments
from quire.graph.shapes import Dim, T
from quire.graph.shard import cut_axes
from quire.graph.trace import Tracer

FAMILIES = ("qwen3", "qwen2", "gemma2", "mixtral", "olmo2", "gpt2", "gpt_neox")


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("fused", "merge"),
    [
        (FUSED_OPS, True),
        (frozenset(), True),
        (frozenset({"add_rms_norm"}), False),
        (frozenset({"rotary_cache_write"}), False),
    ],
)
def test_passes_keep_the_logits(tiny, logits, family: str, fused: frozenset[str], merge: bool) -> None:
    model = tiny(family)
    optimized = optimize(model, fused, merge=merge)
    expected = logits(model)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits(optimized), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("family", "before", "after"), [("qwen3", 22, 17), ("gemma2", 22, 17), ("mixtral", 19, 14)])
def test_node_counts_of_a_layer(tiny, family: str, before: int, after: int) -> None:
    model = tiny(family)
    optimized = optimize(model, FUSED_OPS)
    assert {len(layer.graph.nodes) for layer in model.layers} == {before}
    assert {len(layer.graph.nodes) for layer in optimized.layers} == {after}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_repeat_as_before(tiny, family: str) -> None:
    model = tiny(family)
    assert segments(optimize(model, FUSED_OPS).layers) == segments(model.layers)


def test_undeclared_fused_ops_do_not_appear(tiny) -> None:
    model = optimize(tiny("qwen3"), frozenset())
    assert not {op for part in model.parts() for op in ops_of(part.graph)} & FUSED_OPS
    assert ops_of(model.layers[0].graph).count("linear") == 4
    assert optimize(tiny("qwen3"), frozenset(), merge=False) == tiny("qwen3")


def test_merged_weight_joins_the_sources_and_old_weights_go(tiny) -> None:
    layer = optimize(tiny("qwen2"), frozenset()).layers[1].graph
    qkv = next(w for w in layer.weights.values() if "q_proj.weight" in w.name)
    assert isinstance(qkv.source, Cat)
    assert [s.name.split(".")[-2] for s in source_tensors(qkv.source)] == ["q_proj", "k_proj", "v_proj"]
    assert str(qkv.shape[0]) == "heads*8 + kv_heads*16"
    bias = next(w for w in layer.weights.values() if "q_proj.bias" in w.name)
    assert bias.shape == qkv.shape[:1]
    assert {name for node in layer.nodes for name in node.weights if name} == set(layer.weights)


def _moe_like() -> Graph:
    """A router in float32, a shared expert's uncut gate, and two projections, all of one x."""
    t = Tracer()
    x = t.input("hidden", (T, 8))
    shapes = {"router": Dim.of("experts"), "shared_gate": Dim.of(1), "gate": Dim.of("mlp"), "up": Dim.of("mlp")}
    for name, rows in shapes.items():
        weight = t.weight(name, (rows, 8), Src(name, (rows, Dim.of(8))))
        t.output(name, t.linear(x, weight, out_dtype="f32" if name == "router" else "act"))
    return t.part("p.").graph


def test_merge_keeps_routers_and_uncut_gates_apart() -> None:
    axes = {"mlp": Axis(16), "experts": Axis(4, "whole")}
    merged = merge_linears(_moe_like(), cut_axes(axes))
    assert [node.weights[0] for node in merged.nodes if node.op == "linear"] == ["router", "shared_gate", "gate+up"]
    uncut = merge_linears(_moe_like(), frozenset())  # nothing is ever cut: only the router's dtype keeps it apart
    assert [node.weights[0] for node in uncut.nodes if node.op == "linear"] == ["router", "shared_gate+gate+up"]


def test_merge_needs_equal_scheme_and_bias() -> None:
    graph = _moe_like()
    other = {**graph.weights, "up": replace(graph.weights["up"], scheme="int8")}
    merged = merge_linears(replace(graph, weights=other), frozenset({"mlp"}))
    assert [node.weights[0] for node in merged.nodes if node.op == "linear"] == ["router", "shared_gate", "gate", "up"]


def test_rotate_shifts_the_norms_and_names_the_boundary(tiny) -> None:
    model = rotate(tiny("qwen3"))
    verify(model)
    sources = [layer.graph.weights["next.input_layernorm.weight"].source for layer in model.layers]
    assert [s.name for s in sources if isinstance(s, Src)] == [
        "model.layers.1.input_layernorm.weight",
        "model.layers.2.input_layernorm.weight",
        "model.norm.weight",
    ]
    assert [name for name, _ in model.embed.graph.outputs] == ["hidden", "normed"]
    assert [name for name, _ in model.layers[0].graph.inputs][:2] == ["hidden", "normed"]
    assert ops_of(model.heads["logits"].graph) == ["take_rows", "linear"]
    assert "hidden" not in dict(model.heads["logits"].graph.inputs)


def test_rotate_leaves_a_head_norm_of_another_kind_in_the_head(tiny, logits) -> None:
    model = tiny("qwen3")
    head = model.heads["logits"]
    nodes = tuple(
        replace(node, attrs=tuple((name, 1e-2 if name == "eps" else value) for name, value in node.attrs))
        for node in head.graph.nodes
    )
    changed = replace(model, heads={"logits": replace(head, graph=replace(head.graph, nodes=nodes))})
    rotated = optimize(changed, FUSED_OPS)
    assert ops_of(rotated.heads["logits"].graph) == ["take_rows", "rms_norm", "linear"]
    assert [name for name, _ in rotated.layers[-1].graph.outputs if name != "kv"] == ["hidden"]
    expected = logits(changed)
    np.testing.assert_allclose(logits(rotated), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_rotate_leaves_layer_norm_models_alone(tiny) -> None:
    model = tiny("gpt2")
    assert rotate(model) is model


def test_add_with_two_norms_is_not_fused() -> None:
    t = Tracer()
    x, y = t.input("x", (T, 8)), t.input("y", (T, 8))
    total = t.add(x, y)
    for name in ("a", "b"):
        t.output(name, t.rms_norm(total, t.weight(name, (8,), Src(name, (Dim.of(8),))), eps=1e-6))
    part = t.part("p.")
    model = ModelGraph(part, (), {}, {}, {})
    assert ops_of(optimize(model, FUSED_OPS).embed.graph) == ["add", "rms_norm", "rms_norm"]


def test_rotary_is_not_fused_when_k_is_used_again(tiny) -> None:
    model = tiny("qwen3")
    graph = model.layers[0].graph
    k = next(node for node in graph.nodes if node.op == "cache_write").inputs[1]
    shown = replace(graph, outputs=(*graph.outputs, ("k", k)))
    layers = (replace(model.layers[0], graph=shown), *model.layers[1:])
    optimized = optimize(replace(model, layers=layers), FUSED_OPS)
    assert "rotary_cache_write" not in ops_of(optimized.layers[0].graph)
    assert "rotary_cache_write" in ops_of(optimized.layers[1].graph)


def _with_layer_graph(model: ModelGraph, graph: Graph) -> ModelGraph:
    return replace(model, layers=(replace(model.layers[0], graph=graph), *model.layers[1:]))


def test_verify_finds_each_kind_of_damage(tiny) -> None:
    model = tiny("qwen3")
    graph = model.layers[0].graph
    verify(model)
    nodes, values, up = graph.nodes, graph.values, graph.weights["mlp.up_proj.weight"]
    damages = {
        "before they are made": replace(graph, nodes=(nodes[1], nodes[0], *nodes[2:])),
        "made already": replace(graph, nodes=(*nodes, nodes[-1])),
        "not dense": replace(graph, values=(*values[1:], values[0])),
        "read by no node": replace(graph, weights={**graph.weights, "x": replace(up, name="x")}),
        "does not have": replace(graph, weights={k: w for k, w in graph.weights.items() if k != "mlp.up_proj.weight"}),
        "the op gives": replace(graph, values=(*values[:-1], replace(values[-1], shape=(T, Dim.of(5))))),
        "never made": replace(graph, nodes=nodes[:-1]),
        "attributes": replace(graph, nodes=(replace(nodes[0], attrs=()), *nodes[1:])),
        "which nothing makes": replace(graph, outputs=(("hidden", 999), *graph.outputs)),
        "no such op": replace(graph, nodes=(replace(nodes[0], op="nope"), *nodes[1:])),
    }
    for message, damaged in damages.items():
        with pytest.raises(InternalError, match=message):
            verify(_with_layer_graph(model, damaged))


def test_verify_checks_boundaries_and_caches(tiny) -> None:
    model = tiny("qwen3")
    with pytest.raises(InternalError, match="input hidden is made by no part"):
        verify(
            replace(
                model,
                embed=replace(
                    model.embed, graph=replace(model.embed.graph, outputs=(("other", model.embed.graph.outputs[0][1]),))
                ),
            )
        )
    with pytest.raises(InternalError, match="writes slot 0 of group full"):
        verify(replace(model, layers=(model.layers[0], *model.layers[:2])))
    with pytest.raises(InternalError, match="slot 2 of group full"):
        verify(replace(model, kv_groups={"full": replace(model.kv_groups["full"], layers=2)}))
    with pytest.raises(InternalError, match="axis mlp has no size"):
        verify(replace(model, axes={name: axis for name, axis in model.axes.items() if name != "mlp"}))
