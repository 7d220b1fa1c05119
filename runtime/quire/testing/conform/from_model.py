"""L2 cases in the shapes of a real model: what its graph asks of each op, read from config.json alone.

Sizes beyond a few thousand are cut, and keep their remainder by 64, which is what the tails of kernels see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quire.graph.ir import Graph, ModelGraph, Node
from quire.graph.ops import OPS
from quire.graph.shapes import Dim, concrete
from quire.graph.trace import node_args
from quire.models import build_model
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.steps import step_dtypes
from quire.testing.conform.subject import Subject

_MOST, _MOST_OF_EXPERTS, _REMAINDER = 4096, 512, 64

Found = tuple[str, dict[str, int], dict[str, Any]]
"""(op, sizes, attributes) as OpCase has them."""


def model_cases(subject: Subject, folder: Path, seed: int = 0) -> list[OpCase]:
    """One case for each distinct use of an op in the model, in the dtypes of L3. Raises ModelError as `build_model`."""
    spec = build_model(folder)
    found: dict[str, Found] = {}
    for part in spec.graph.parts():
        for node in part.graph.nodes:
            if node.op in _READERS:
                for use in _READERS[node.op](node, part.graph, spec.graph):
                    found.setdefault(repr(use), use)
    dtypes = step_dtypes(subject)
    return [
        OpCase(op, f"model_{_label(sizes, index)}", sizes, attrs, types, lines=((3, 2), (0, 1)), seed=seed)
        for index, (op, sizes, attrs) in enumerate(found.values())
        for types in dtypes
    ]


def _label(sizes: Mapping[str, int], index: int) -> str:
    return f"{index}_" + "_".join(f"{name}{size}" for name, size in sizes.items())


def _cut(size: int, most: int = _MOST) -> int:
    return size if size <= most else most + size % _REMAINDER


def _shape(node: Node, graph: Graph, model: ModelGraph, index: int) -> tuple[int, ...]:
    """Input `index` in ints, with one token."""
    return concrete(node_args(graph, node).shape(index), {"T": 1, "L": 1, "S": 1, **model.axis_sizes()})


def _weight_shape(node: Node, graph: Graph, model: ModelGraph, index: int) -> tuple[int, ...]:
    return concrete(node_args(graph, node).weight_shape(index), model.axis_sizes())


def _attrs(node: Node) -> dict[str, Any]:
    """Attributes that are not the default."""
    defaults = OPS[node.op].attrs
    return {name: value for name, value in node.attrs if value != defaults[name] and not isinstance(value, Dim)}


def _linear(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    out, width = _weight_shape(node, graph, model, 0)
    yield "linear", {"width": _cut(width), "out": _cut(out), "bias": int(bool(node.weights[1]))}, {}


def _embedding(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    yield "embedding", {"width": _cut(_weight_shape(node, graph, model, 0)[1])}, _attrs(node)


def _norm(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    shape = _shape(node, graph, model, 0)
    if len(shape) == 3:
        sizes = {"heads": min(shape[1], _MOST // shape[2]), "head_dim": shape[2]}
    else:
        sizes = {"width": _cut(shape[1])}
    if node.op == "layer_norm":
        sizes["bias"] = int(bool(node.weights[1]))
    yield node.op, sizes, _attrs(node)


def _elementwise(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    yield node.op, {"width": _cut(_shape(node, graph, model, 0)[-1], _MOST // 2)}, _attrs(node)


def _attention(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    _, heads, head_dim = _shape(node, graph, model, 0)
    kv_heads = model.axes["kv_heads"].size
    if heads * head_dim > _MOST:  # as many queries to a key head, fewer of both
        kv_heads = max(1, kv_heads * _MOST // (heads * head_dim))
        heads = kv_heads * (heads // model.axes["kv_heads"].size)
    yield "paged_attention", {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}, _attrs(node)


def _rotary(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    _, heads, head_dim = _shape(node, graph, model, 0)
    yield "rotary", {"heads": min(heads, _MOST // head_dim), "head_dim": head_dim}, _attrs(node)


def _experts(node: Node, graph: Graph, model: ModelGraph) -> Iterator[Found]:
    num_experts, width, mlp = _weight_shape(node, graph, model, 1)
    routing = next(_attrs(other) for other in graph.nodes if other.op == "route_experts")
    k = routing["k"]
    sizes = {
        "width": _cut(width, _MOST_OF_EXPERTS),
        "mlp": _cut(mlp, _MOST_OF_EXPERTS),
        "experts": min(num_experts, max(16, k + 1)),
    }
    yield "experts", sizes, {**routing, **_attrs(node)}


_READERS: dict[str, Callable[[Node, Graph, ModelGraph], Iterator[Found]]] = {
    "linear": _linear,
    "embedding": _embedding,
    "rms_norm": _norm,
    "layer_norm": _norm,
    "activation": _elementwise,
    "gated_activation": _elementwise,
    "softcap": _elementwise,
    "paged_attention": _attention,
    "rotary": _rotary,
    "experts": _experts,
}
"""Op -> the case of a node."""
