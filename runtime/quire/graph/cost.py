"""What a step costs: floating-point operations and bytes moved, per node, part and model, from the graph alone.

Bytes are those that must cross main memory once: every weight read once (an embedding: its rows; experts: those that
the step's tokens reach if routing is even), every operand and result once, KV read once per sequence. Against a
machine's limits this gives a floor for a step's time; what fits in caches can only be less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quire.graph.ir import ModelGraph, Node, Part, ValueDtype, Weight
from quire.graph.kv_budget import bytes_per_block, dtype_bytes
from quire.graph.op_spec import OpArgs, OpSpec
from quire.graph.op_table import OPS
from quire.graph.shapes import num_elements
from quire.graph.trace import node_args
from quire.graph.value_dtypes import element_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """The size of a step.

    Attributes:
        num_tokens, num_seqs, num_logits: T, S and L.
        context: tokens in each sequence's KV cache after the step.
    """

    num_tokens: int
    num_seqs: int
    num_logits: int
    context: int

    def mean_kv_tokens(self, window: int, *, causal: bool) -> int:
        """KV tokens that a query row sees on average when each sequence brings num_tokens / num_seqs rows."""
        if not causal:
            return self.context
        rows = max(1, self.num_tokens // max(1, self.num_seqs))
        first = max(1, self.context - rows + 1)
        if not window or self.context <= window:
            return (first + self.context + 1) // 2
        growing = range(first, window) if first < window else range(0)
        return (sum(growing) + (rows - len(growing)) * window + rows // 2) // rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtypes:
    """In which dtypes weights, activations and the KV cache are held.

    Attributes:
        scheme_bits: bits per element of the quantization schemes that weights are held in, scales included.
    """

    weight: str = "bfloat16"
    act: str = "bfloat16"
    kv: str = "bfloat16"
    scheme_bits: Mapping[str, float] = field(default_factory=dict)

    def value_bytes(self, dtype: ValueDtype) -> float:
        """Bytes of an element; a cache's are counted apart."""
        return dtype_bytes(self.act) if dtype == "act" else element_bytes(0).get(dtype, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations and bytes; a multiply and an add are two operations."""

    flops: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
            self.kv_bytes + other.kv_bytes,
        )

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes + self.kv_bytes


def weight_num_bytes(
    weight: Weight, axis_sizes: Mapping[str, int], dtype: str, scheme_bits: Mapping[str, float] | None = None
) -> int:
    """Bytes of one weight on this rank.

    Args:
        scheme_bits: bits per element of quantization schemes, scales included; "plain" follows `dtype`.
    """
    elements = num_elements(weight.shape).evaluate(axis_sizes)
    if weight.keep_f32:
        return elements * 4
    if scheme_bits and weight.scheme in scheme_bits:
        return int(elements * scheme_bits[weight.scheme] / 8)
    return int(elements * dtype_bytes(dtype))


def weight_totals(model: ModelGraph, dtype: str, scheme_bits: Mapping[str, float] | None = None) -> tuple[int, int]:
    """(parameters, bytes) of a model on this rank; a weight that several parts share counts once."""
    sizes = model.axis_sizes()
    distinct = _distinct(model)
    parameters = sum(num_elements(weight.shape).evaluate(sizes) for weight in distinct)
    return parameters, sum(weight_num_bytes(weight, sizes, dtype, scheme_bits) for weight in distinct)


@dataclass(frozen=True, slots=True)
class SchemeTotal:
    """What a model holds in one scheme: distinct weights, their elements, their bytes."""

    num_weights: int
    parameters: int
    num_bytes: int


def scheme_totals(model: ModelGraph, dtypes: Dtypes) -> dict[str, SchemeTotal]:
    """What this rank holds in each scheme, the largest first; merged linears count as one weight."""
    sizes = model.axis_sizes()
    found: dict[str, SchemeTotal] = {}
    for weight in _distinct(model):
        had = found.get(weight.scheme, SchemeTotal(0, 0, 0))
        found[weight.scheme] = SchemeTotal(
            had.num_weights + 1,
            had.parameters + num_elements(weight.shape).evaluate(sizes),
            had.num_bytes + weight_num_bytes(weight, sizes, dtypes.weight, dtypes.scheme_bits),
        )
    return dict(sorted(found.items(), key=lambda item: -item[1].num_bytes))


def _distinct(model: ModelGraph) -> list[Weight]:
    """Weights that are held once each."""
    return list(
        {(w.source, w.scheme, w.keep_f32): w for part in model.parts() for w in part.graph.weights.values()}.values()
    )


def node_cost(model: ModelGraph, part: Part, node: Node, step: Step, dtypes: Dtypes) -> Cost:
    """The cost of one node of `part`."""
    graph, spec, args = part.graph, OPS[node.op], node_args(part.graph, node)
    attrs = dict(node.attrs)
    sizes = {**model.axis_sizes(), "T": step.num_tokens, "S": step.num_seqs, "L": step.num_logits}
    sizes["C"] = step.mean_kv_tokens(attrs.get("window", 0), causal=attrs.get("causal", True))
    if spec.view:
        return Cost()
    moved = [*(node.outputs if spec.reads_what_it_gives else node.inputs), *node.outputs]
    activation = sum(
        num_elements(graph.values[v].shape).evaluate(sizes) * dtypes.value_bytes(graph.values[v].dtype)
        for v in moved
        if v >= 0
    )
    return Cost(
        int(spec.flops(args).evaluate(sizes)),
        _weight_bytes(spec, args, sizes, dtypes),
        int(activation),
        _kv_bytes(model, part, node, step, dtypes),
    )


def part_cost(model: ModelGraph, part: Part, step: Step, dtypes: Dtypes) -> Cost:
    """The cost of one part."""
    return sum((node_cost(model, part, node, step, dtypes) for node in part.graph.nodes), Cost())


def model_cost(model: ModelGraph, step: Step, dtypes: Dtypes, *, heads: tuple[str, ...] = ("logits",)) -> Cost:
    """The cost of embed, every layer and the given heads."""
    parts = (model.embed, *model.layers, *(model.heads[name] for name in heads))
    return sum((part_cost(model, part, step, dtypes) for part in parts), Cost())


def decode_cost(model: ModelGraph, context: int, dtypes: Dtypes, *, num_seqs: int = 1) -> Cost:
    """One decode step: a token for each sequence, `context` tokens in each cache. total_bytes bounds its speed."""
    return model_cost(model, Step(num_seqs, num_seqs, num_seqs, context), dtypes)


def prefill_cost(model: ModelGraph, num_tokens: int, dtypes: Dtypes) -> Cost:
    """One prompt of `num_tokens` tokens in one step, with logits of its last row; flops / num_tokens is per token."""
    return model_cost(model, Step(num_tokens, 1, 1, num_tokens), dtypes)


def _weight_bytes(spec: OpSpec, args: OpArgs, sizes: Mapping[str, int], dtypes: Dtypes) -> int:
    weights = [weight for weight in args.weights if weight is not None]
    total = sum(weight_num_bytes(weight, sizes, dtypes.weight, dtypes.scheme_bits) for weight in weights)
    return total if spec.weight_bytes_read is None else spec.weight_bytes_read(args, sizes, total)


def _kv_bytes(model: ModelGraph, part: Part, node: Node, step: Step, dtypes: Dtypes) -> int:
    """KV written (one token's worth per token) or read (each sequence's visible tokens once)."""
    if not any(v >= 0 and part.graph.values[v].dtype == "cache" for v in node.inputs):
        return 0
    group = model.kv_groups[cache_group(part, node)]
    per_token = bytes_per_block(group, model.axis_sizes(), 1, dtypes.kv) // group.layers
    if any(part.graph.values[v].dtype == "cache" for v in node.outputs):
        return step.num_tokens * per_token
    rows = max(1, step.num_tokens // max(1, step.num_seqs))
    visible = min(step.context, group.window - 1 + rows) if group.window else step.context
    return step.num_seqs * visible * per_token


def cache_group(part: Part, node: Node) -> str:
    """The KV group of a node's cache operand: the named input that its chain of writes began with."""
    made_by = {value: other for other in part.graph.nodes for value in other.outputs}
    names = {value: name for name, value in part.graph.inputs}
    value = _cache_operand(part, node)
    while value not in names:
        value = _cache_operand(part, made_by[value])
    return part.caches[names[value]].group


def _cache_operand(part: Part, node: Node) -> int:
    return next(v for v in node.inputs if v >= 0 and part.graph.values[v].dtype == "cache")
