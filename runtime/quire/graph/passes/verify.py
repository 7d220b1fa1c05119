"""Checks that a model's graph is whole: the contract every pass keeps and every executor relies on."""

from __future__ import annotations

from collections.abc import Iterator

from quire.errors import InternalError, QuireError
from quire.graph.cost import cache_group
from quire.graph.ir import Graph, ModelGraph, Part, Weight, dims_text
from quire.graph.op_spec import OpSpec
from quire.graph.op_table import OPS
from quire.graph.passes.rotate import HIDDEN, NORMED
from quire.graph.shapes import STEP_SYMBOLS, Shape
from quire.graph.trace import node_args

_Boundary = dict[str, tuple[Shape, str]]


def verify(model: ModelGraph) -> None:
    """Raises InternalError that lists what is wrong; returns None when the graph is whole.

    Checked per graph: dense ids, execution order, each value made once, operands and attributes as the op
    declares, result shapes and dtypes as its shape rule gives, weights present and all read; over the model:
    names, shapes and dtypes match at part boundaries, caches are bound to slots that exist and are not written by
    two layers, every axis symbol has a size. Equal graphs are checked once.
    """
    problems: list[str] = []
    checked: set[tuple[object, ...]] = set()
    for part in model.parts():
        signature = part.graph.signature()
        if signature not in checked:
            checked.add(signature)
            problems += [f"{part.prefix}: {problem}" for problem in _graph_problems(part.graph, frozenset(model.axes))]
    if not problems:  # the checks over the model need graphs that are whole
        problems += [f"{part.prefix}: {problem}" for part in model.parts() for problem in _cache_problems(part, model)]
        problems += [*_writer_problems(model), *_boundary_problems(model)]
    if not problems:
        problems += [f"{part.prefix}: {p}" for part in model.parts() for p in _attention_problems(part, model)]
    if problems:
        raise InternalError(
            "the model's graph is inconsistent: " + "; ".join(problems[:8]),
            because=f"{len(problems)} checks failed after tracing or a pass",
        )


def _graph_problems(graph: Graph, axes: frozenset[str]) -> Iterator[str]:
    if [value.id for value in graph.values] != list(range(len(graph.values))):
        yield "value ids are not dense"
        return
    made: set[int] = set()
    for name, value in graph.inputs:
        if value in made:
            yield f"input {name} names value {value} a second time"
        made.add(value)
    read_weights: set[str] = set()
    for index, node in enumerate(graph.nodes):
        where = f"node {index} ({node.op})"
        if node.op not in OPS:
            yield f"{where}: no such op"
            continue
        early = [v for v in node.inputs if v >= 0 and v not in made]
        if early:
            yield f"{where} reads values {early} before they are made"
        twice = [v for v in node.outputs if v in made or not 0 <= v < len(graph.values)]
        if twice:
            yield f"{where} makes values {twice} that are made already or do not exist"
        made.update(node.outputs)
        absent = [name for name in node.weights if name and name not in graph.weights]
        if absent:
            yield f"{where} reads weights {absent} that the graph does not have"
        read_weights.update(node.weights)
        if not (early or twice or absent):
            yield from (f"{where}: {problem}" for problem in _node_problems(graph, index, OPS[node.op]))
    yield from (f"value {value.id} is never made" for value in graph.values if value.id not in made)
    yield from (f"output {name} names value {v}, which nothing makes" for name, v in graph.outputs if v not in made)
    yield from (f"weight {name} is read by no node" for name in graph.weights if name not in read_weights)
    yield from (f"weight {w.name} is filed under {name}" for name, w in graph.weights.items() if w.name != name)
    symbols = {symbol for value in graph.values for dim in value.shape for symbol in dim.symbols}
    yield from (f"axis {symbol} has no size" for symbol in sorted(symbols - axes - set(STEP_SYMBOLS)))


def _node_problems(graph: Graph, index: int, spec: OpSpec) -> Iterator[str]:
    node = graph.nodes[index]
    for names, given, absent in ((spec.inputs, node.inputs, -1), (spec.weights, node.weights, "")):
        needed = [name for name in names if name.rstrip("?") not in spec.features]
        if not len(needed) <= len(given) <= len(names):
            yield f"has {len(given)} operands for {', '.join(names) or 'none'}"
            return
        missing = [name for name, operand in zip(names, given, strict=False) if operand == absent and name[-1] != "?"]
        if missing:
            yield f"lacks {', '.join(missing)}"
            return
    names_given = {name for name, _ in node.attrs}
    if not set(spec.attrs) - set(spec.features) <= names_given <= set(spec.attrs):
        yield f"attributes {sorted(names_given)} are not {sorted(spec.attrs)}"
        return
    args = node_args(graph, node)
    if spec.node(args, node.outputs) != node:
        yield f"is not written as {spec.node(args, node.outputs)}"
        return
    try:
        results = spec.shape(args)
    except QuireError as error:
        yield error.what
        return
    declared = tuple((graph.values[v].shape, graph.values[v].dtype) for v in node.outputs)
    if results != declared:
        yield f"results are {declared}, the op gives {results}"


def _cache_problems(part: Part, model: ModelGraph) -> Iterator[str]:
    cache_inputs = {name for name, value in part.graph.inputs if part.graph.values[value].dtype == "cache"}
    if cache_inputs != set(part.caches):
        yield f"cache inputs {sorted(cache_inputs)} are not the bound caches {sorted(part.caches)}"
    for name, ref in part.caches.items():
        group = model.kv_groups.get(ref.group)
        if group is None or not 0 <= ref.slot < group.layers:
            yield f"cache {name} is bound to slot {ref.slot} of group {ref.group}, which does not exist"
    for name, value in part.graph.outputs:
        if part.graph.values[value].dtype == "cache" and name not in cache_inputs:
            yield f"output {name} is a cache that is no input"


def _attention_problems(part: Part, model: ModelGraph) -> Iterator[str]:
    """Attention gives heads of v's width, which stands in its cache's group."""
    for node in part.graph.nodes:
        if node.op != "paged_attention":
            continue
        arrays = {array.name: array for array in model.kv_groups[cache_group(part, node)].arrays}
        width = part.graph.values[node.outputs[0]].shape[-1]
        if "v" in arrays and arrays["v"].shape[-1] != width:
            yield f"paged_attention gives heads of {width}, its cache holds v of {arrays['v'].shape[-1]}"


def _writer_problems(model: ModelGraph) -> Iterator[str]:
    """A cache slot has one writer; layers that share KV only read it."""
    writers: dict[tuple[str, int], str] = {}
    for part in model.parts():
        inputs = dict(part.graph.inputs)
        for name, value in part.graph.outputs:
            if name in part.caches and value != inputs[name]:
                ref = part.caches[name]
                if (ref.group, ref.slot) in writers:
                    first = writers[ref.group, ref.slot]
                    yield f"{part.prefix}: writes slot {ref.slot} of group {ref.group}, which {first} writes too"
                writers[ref.group, ref.slot] = part.prefix


def _boundary_problems(model: ModelGraph) -> Iterator[str]:
    """Walks embed, layers and heads with an environment of names, as an executor does."""
    external: _Boundary = {}
    environment: _Boundary = {}
    for part in (model.embed, *model.layers):
        yield from _input_problems(part, environment, external)
        environment |= _named(part, part.graph.outputs)
    for head in model.heads.values():
        yield from _input_problems(head, environment, external)
    weights: dict[object, Weight] = {}
    for part in model.parts():
        for weight in part.graph.weights.values():
            first = weights.setdefault((weight.source, weight.keep_f32), weight)
            if first.shape != weight.shape:
                yield (
                    f"{part.prefix}: weight {weight.name} is {dims_text(weight.shape)},"
                    f" the same source gave {dims_text(first.shape)}"
                )


def _input_problems(part: Part, environment: _Boundary, external: _Boundary) -> Iterator[str]:
    """Inputs that no part made come from outside; every use of one must agree with the first."""
    for name, found in _named(part, part.graph.inputs).items():
        expected = environment.get(name) or external.setdefault(name, found)
        if expected != found:
            yield f"{part.prefix}: input {name} is {found}, it was made as {expected}"
        if name in (HIDDEN, NORMED) and name not in environment:
            yield f"{part.prefix}: input {name} is made by no part before it"


def _named(part: Part, named: tuple[tuple[str, int], ...]) -> _Boundary:
    values = part.graph.values
    return {name: (values[v].shape, values[v].dtype) for name, v in named if values[v].dtype != "cache"}
