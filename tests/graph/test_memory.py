from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import InternalError
from quire.graph.ir import Graph, Value
from quire.graph.memory import ArenaPlan, GraphPlan, plan_arena
from quire.graph.ops import FUSED_OPS
from quire.graph.passes import optimize
from quire.graph.shapes import T, concrete, num_elements, shape_of
from quire.graph.shard import shard
from quire.graph.trace import Tracer

FAMILIES = ("qwen3", "gemma2", "mixtral", "olmo2", "gpt2", "gpt_neox")
LIMITS = {"T": 24, "S": 4, "L": 3}


def plan_of(model, **options) -> ArenaPlan:
    return plan_arena([part.graph for part in model.parts()], {**model.axis_sizes(), **LIMITS}, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused", [frozenset(), FUSED_OPS])
def test_values_in_their_places_give_the_same_logits(tiny, logits, arena_logits, family: str, fused) -> None:
    """Two steps smaller than the plan, in a NaN-filled arena, the head in slices of 3 rows."""
    model = optimize(tiny(family), fused)
    plan = plan_of(model)
    np.testing.assert_array_equal(arena_logits(model, plan, LIMITS["L"]), logits(model))


def test_arena_run_notices_a_collision(tiny, logits, arena_logits) -> None:
    """The second norm of a layer, put where the residual is still alive, must show."""
    model = tiny("qwen3")
    plan = plan_of(model)
    graph = model.layers[1].graph
    norm = [node for node in graph.nodes if node.op == "rms_norm"][-1].outputs[0]
    wrong = replace(plan.graphs[2].places[norm], offset_bytes=plan.boundary["hidden"][0])
    broken = replace(plan.graphs[2], places={**plan.graphs[2].places, norm: wrong})
    collided = replace(plan, graphs=(*plan.graphs[:2], broken, *plan.graphs[3:]))
    assert not np.array_equal(arena_logits(model, collided, LIMITS["L"]), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_arena_is_near_the_live_peak_and_far_below_no_reuse(tiny, family: str) -> None:
    model = optimize(tiny(family), FUSED_OPS)
    plan = plan_of(model)
    assert plan.peak_bytes <= plan.total_bytes <= 1.1 * plan.peak_bytes
    sizes = {**model.axis_sizes(), **LIMITS}
    no_reuse = sum(4 * num_elements(v.shape).evaluate(sizes) for part in model.parts() for v in part.graph.values)
    assert plan.total_bytes < no_reuse / 4


def test_equal_layers_share_a_plan_and_the_residual_stays_in_place(tiny) -> None:
    model = optimize(tiny("qwen3"), FUSED_OPS)
    plan = plan_of(model)
    first, last = plan.graphs[1], plan.graphs[len(model.layers)]
    assert first is last
    assert not any(graph.copies for graph in plan.graphs)
    graph = model.layers[0].graph
    for name in ("hidden", "normed"):
        place_in, place_out = (first.places[dict(named)[name]] for named in (graph.inputs, graph.outputs))
        assert place_in.offset_bytes == place_out.offset_bytes == plan.boundary[name][0]
    assert first.places[dict(graph.outputs)["hidden"]].base == dict(graph.inputs)["hidden"]


def test_merged_projections_are_strided_views(tiny) -> None:
    model = optimize(tiny("qwen2"), frozenset())
    graph, plan = model.layers[0].graph, plan_of(model).graphs[1]
    split = next(node for node in graph.nodes if node.op == "split")
    q, k, v = (plan.places[value] for value in split.outputs)
    assert [place.element_offset for place in (q, k, v)] == [0, 32, 48]
    assert {place.row_stride for place in (q, k, v)} == {64}
    assert {place.base for place in (q, k, v)} == {split.inputs[0]}
    assert k.is_view
    assert k.offset_bytes == q.offset_bytes + 32 * 4


def test_external_arrays_take_no_room(tiny) -> None:
    model = tiny("gemma2")
    inside, outside = plan_of(model), plan_of(model, external=frozenset({"logits", "token_ids"}))
    assert "logits" in inside.boundary
    assert "logits" not in outside.boundary
    head = outside.graphs[-1]
    place = head.places[dict(model.heads["logits"].graph.outputs)["logits"]]
    assert (place.external, place.offset_bytes) == ("logits", 0)
    linear = next(node for node in model.heads["logits"].graph.nodes if node.op == "linear")
    assert head.places[linear.outputs[0]].external == "logits"  # softcap is done in place, in the caller's array
    assert outside.total_bytes <= inside.total_bytes


def test_workspace_is_alive_with_its_node_only(tiny) -> None:
    model = tiny("mixtral")
    plan = plan_of(model)
    graph = model.layers[0].graph
    index = next(i for i, node in enumerate(graph.nodes) if node.op == "experts")
    assert set(plan.graphs[1].workspaces) == {index}
    offset, size = plan.graphs[1].workspaces[index]
    assert size >= 24 * 2 * (2 * 48 + 32) * 4
    for value in (*graph.nodes[index].inputs, *graph.nodes[index].outputs):
        start, end = _span(graph, plan.graphs[1], value, model.axis_sizes())
        assert end <= offset or offset + size <= start
    own = plan_of(model, workspace=lambda graph, node: 1000 if node.op == "linear" else 0)
    assert all(size == 1024 for graph in own.graphs for _, size in graph.workspaces.values())


def test_a_head_does_not_overwrite_what_its_next_slice_reads(tiny) -> None:
    model = tiny("qwen3")
    t = Tracer()
    x = t.input("hidden", (T, 32))
    t.output("pooled", t.softcap(t.scale(x, factor=2.0), cap=3.0))
    plan = plan_arena([model.embed.graph, t.part("pool").graph], {**model.axis_sizes(), **LIMITS})
    head = plan.graphs[1]
    assert head.places[1].base == 1
    assert head.places[2].base == 1  # but its own values are reused


def test_no_result_in_place_when_asked(tiny) -> None:
    plan = plan_of(tiny("qwen3"), in_place=False)
    assert all(place.base == value or place.is_view for graph in plan.graphs for value, place in graph.places.items())
    assert plan.total_bytes > plan_of(tiny("qwen3")).total_bytes


def test_output_whose_place_is_taken_is_copied() -> None:
    """`hidden` is still read after its successor is made, so the successor cannot be made in its place."""
    t = Tracer()
    x = t.input("hidden", (T, 8))
    after = t.activation(x, act="relu")
    t.output("hidden", after)
    t.output("sum", t.add(x, after))
    graph = t.part("p").graph
    plan = plan_arena([graph], LIMITS)
    assert plan.graphs[0].copies == ((2, "sum"), (1, "hidden"))  # the sum lies where `hidden` was, and leaves first
    assert plan.graphs[0].places[2].offset_bytes == plan.boundary["hidden"][0]
    assert plan.graphs[0].places[1].offset_bytes != plan.boundary["hidden"][0]


def test_two_names_for_one_value_and_exchanged_names() -> None:
    t = Tracer()
    x = t.input("x", (T, 8))
    out = t.activation(x, act="relu")
    t.output("a", out)
    t.output("b", out)
    assert plan_arena([t.part("p").graph], LIMITS).graphs[0].copies == ((1, "b"),)
    t = Tracer()
    x, y = t.input("x", (T, 8)), t.input("y", (T, 8))
    t.output("x", y)
    t.output("y", x)
    with pytest.raises(InternalError, match="change places"):
        plan_arena([t.part("p").graph], LIMITS)


def test_view_that_needs_elements_moved_gets_storage_of_its_own() -> None:
    t = Tracer()
    x = t.input("x", (T, 8))
    left, _ = t.split(x, sizes=shape_of(4, 4))
    t.output("flat", t.reshape(left, shape=(T * 4,)))
    heads = t.reshape(x, shape=shape_of(T, 2, 4))
    inner, _ = t.split(heads, sizes=shape_of(1, 3))
    t.output("inner", inner)
    graph = t.part("p").graph
    places = plan_arena([graph], LIMITS).graphs[0].places
    flat, inner_id = (dict(graph.outputs)[name] for name in ("flat", "inner"))
    for value in (flat, inner_id):
        assert places[value].base == value
        assert not places[value].is_view


def test_alignment_and_dtype_sizes(tiny) -> None:
    plan = plan_of(tiny("qwen3"), alignment=128, dtype_bytes={"act": 2, "f32": 4, "i32": 4, "bool": 1})
    assert plan.total_bytes < plan_of(tiny("qwen3"), alignment=128).total_bytes
    for graph in plan.graphs:
        for value, place in graph.places.items():
            assert place.base != value or place.offset_bytes % 128 == 0


def test_sharded_model_needs_less(tiny) -> None:
    model = tiny("qwen3")
    assert plan_of(shard(model, 2)).total_bytes < plan_of(model).total_bytes


# ---- random graphs: no two live values share a byte unless one is an alias of the other --------------------


def _random_graph(choices: list[tuple[int, int, int]]) -> Graph:
    t = Tracer()
    pool: list[Value] = [t.input("hidden", (T, 12)), t.input("other", (T, 12))]
    for kind, first, second in choices:
        a, b = pool[first % len(pool)], pool[second % len(pool)]
        if kind == 0 and a.shape == b.shape:
            pool.append(t.add(a, b))
        elif kind == 1:
            pool.append(t.activation(a, act="relu"))
        elif kind == 2 and len(a.shape) == 2 and (width := a.shape[1].evaluate({})) % 2 == 0:
            pool.extend(t.split(a, sizes=shape_of(width // 2, width // 2)))
        elif kind == 3 and len(a.shape) == 2 and (width := a.shape[1].evaluate({})) % 3 == 0:
            pool.append(t.reshape(a, shape=shape_of(T, 3, width // 3)))
        elif kind == 4:
            pool.append(t.take_rows(a, _rows(t)))
    last = pool[-1]
    if last.shape == shape_of(T, 12):
        t.output("hidden", last)
    t.output("out", pool[len(pool) // 2])
    return t.part("p").graph


def _rows(t: Tracer) -> Value:
    found = [value for name, value in t._inputs if name == "rows"]
    return t._values[found[0]] if found else t.input("rows", (T,), "i32")


def _span(graph: Graph, plan: GraphPlan, value: int, axis_sizes=()) -> tuple[int, int]:
    place, shape = plan.places[value], concrete(graph.values[value].shape, {**dict(axis_sizes), **LIMITS})
    length = (shape[0] - 1) * place.row_stride + int(np.prod(shape[1:]))
    return place.offset_bytes, place.offset_bytes + length * 4


def _bytes_of(graph: Graph, plan: GraphPlan, value: int) -> set[int]:
    place, shape = plan.places[value], concrete(graph.values[value].shape, LIMITS)
    inner = int(np.prod(shape[1:]))
    return {place.offset_bytes // 4 + row * place.row_stride + i for row in range(shape[0]) for i in range(inner)}


def _home(graph: Graph, plan: ArenaPlan, value: int, name: str) -> range:
    start = plan.boundary[name][0] // 4
    return range(start, start + num_elements(graph.values[value].shape).evaluate(LIMITS))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=14))
def test_live_values_never_overlap(choices) -> None:
    """Symbolic execution: each element remembers the value that wrote it, and every read must find its own."""
    graph = _random_graph(choices)
    plan = plan_arena([graph], LIMITS)
    found = plan.graphs[0]
    assert plan.total_bytes >= plan.peak_bytes
    held: dict[int, int] = {}

    content: dict[int, int] = {}  # value -> the value whose content it shows: itself, or its base for a view

    def write(value: int) -> None:
        content[value] = value
        held.update(dict.fromkeys(_bytes_of(graph, found, value), value))

    def check(value: int) -> None:
        assert {held[b] for b in _bytes_of(graph, found, value)} == {content[value]}

    for _, value in graph.inputs:
        write(value)
    for node in graph.nodes:
        for value in node.inputs:
            check(value)
        for value in node.outputs:
            if found.places[value].is_view:
                content[value] = content[node.inputs[0]]
            else:
                write(value)
    for _, value in graph.outputs:
        check(value)
    for value, name in found.copies:
        held.update(dict.fromkeys(_home(graph, plan, value, name), content[value]))
    for name, value in graph.outputs:
        assert {held[b] for b in _home(graph, plan, value, name)} == {content[value]}
    names = dict(graph.outputs)
    for name, value in graph.inputs:  # what other graphs may still need is untouched
        if name not in names:
            check(value)
    for (_, a), (_, b) in combinations(graph.inputs, 2):
        assert not _bytes_of(graph, found, a) & _bytes_of(graph, found, b)
