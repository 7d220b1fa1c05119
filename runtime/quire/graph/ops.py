"""The op set, version 1: every op declared once. `quire.reference` defines what each computes.

Shapes here: T tokens, L logit rows, D hidden, H heads, KV kv_heads, d head_dim, V vocab, E experts,
k experts per token. Rows are dimension 0. `act` is the activation dtype of the run; every op computes
in float32 and rounds its results to their dtype once, unless its docstring in `quire.reference` says
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quire.graph.ir import Weight
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops, shape_error
from quire.graph.shapes import Dim, Shape, num_elements

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "quick_gelu")
"""Names that `activation`, `gated_activation` and `experts` accept; gelu_tanh is HF's gelu_new, gelu_pytorch_tanh."""


def _same(args: OpArgs) -> Outputs:
    return ((args.shape(0), "act"),)


def _norm_shape(op: str, x: Shape, *weights: Weight | None) -> None:
    for weight in weights:
        if weight is not None and weight.shape != x[-1:]:
            raise shape_error(op, f"weight {weight.name} is {weight.shape}, the last dimension is {x[-1]}")


def _norm(op: str) -> object:
    def shape(args: OpArgs) -> Outputs:
        _norm_shape(op, args.shape(0), *args.weights)
        return _same(args)

    return shape


def _embedding(args: OpArgs) -> Outputs:
    return (((*args.shape(0), args.weight_shape(0)[1]), "act"),)


def _linear(args: OpArgs) -> Outputs:
    x, w = args.shape(0), args.weight_shape(0)
    if len(w) != 2 or x[-1] != w[1]:
        raise shape_error("linear", f"x is {x}, the weight is {w}; x's last dimension must equal the weight's second")
    bias = args.weights[1]
    if bias is not None and bias.shape != w[:1]:
        raise shape_error("linear", f"the bias is {bias.shape}, the weight is {w}")
    return (((*x[:-1], w[0]), args.attrs["out_dtype"]),)


def _add(args: OpArgs) -> Outputs:
    if args.shape(0) != args.shape(1):
        raise shape_error("add", f"{args.shape(0)} and {args.shape(1)} differ")
    return _same(args)


def _keeps_dtype(args: OpArgs) -> Outputs:
    value = args.inputs[0]
    assert value is not None
    return ((value.shape, value.dtype),)


def _gated(args: OpArgs) -> Outputs:
    if args.shape(0) != args.shape(1):
        raise shape_error("gated_activation", f"gate {args.shape(0)} and up {args.shape(1)} differ")
    return _same(args)


def _split(args: OpArgs) -> Outputs:
    x, axis, sizes = args.shape(0), args.attrs["axis"] % len(args.shape(0)), args.attrs["sizes"]
    if sum(sizes, Dim.of(0)) != x[axis]:
        raise shape_error("split", f"sizes {sizes} do not add up to {x[axis]}")
    value = args.inputs[0]
    assert value is not None
    return tuple(((*x[:axis], size, *x[axis + 1 :]), value.dtype) for size in sizes)


def _reshape(args: OpArgs) -> Outputs:
    shape = args.attrs["shape"]
    if num_elements(shape) != num_elements(args.shape(0)):
        raise shape_error("reshape", f"{args.shape(0)} does not have the elements of {shape}")
    value = args.inputs[0]
    assert value is not None
    return ((shape, value.dtype),)


def _take_rows(args: OpArgs) -> Outputs:
    value = args.inputs[0]
    assert value is not None
    return (((*args.shape(1), *value.shape[1:]), value.dtype),)


def _rotary(args: OpArgs) -> Outputs:
    if len(args.shape(0)) != 3:
        raise shape_error("rotary", f"x is {args.shape(0)}, not [T, heads, head_dim]")
    return _same(args)


def _cache_write(args: OpArgs) -> Outputs:
    if len(args.shape(1)) != 3 or args.shape(1)[:2] != args.shape(2)[:2]:
        raise shape_error("cache_write", f"k {args.shape(1)}, v {args.shape(2)}: not both [T, kv_heads, head_dim]")
    return (((), "cache"),)


def _paged_attention(args: OpArgs) -> Outputs:
    if len(args.shape(0)) != 3:
        raise shape_error("paged_attention", f"q is {args.shape(0)}, not [T, heads, head_dim]")
    sinks = args.weights[0]
    if sinks is not None and sinks.shape != args.shape(0)[1:2]:
        raise shape_error("paged_attention", f"sinks are {sinks.shape}, q has {args.shape(0)[1]} heads")
    return (((*args.shape(0)[:2], _value_width(args)), "act"),)


def _value_width(args: OpArgs) -> Dim:
    """Elements of a head of v, and so of the result."""
    return Dim.of(args.attrs["v_head_dim"]) if args.attrs["v_head_dim"] else args.shape(0)[2]


def _route_experts(args: OpArgs) -> Outputs:
    rows, k = args.shape(0)[0], Dim.of(args.attrs["k"])
    return (((rows, k), "i32"), ((rows, k), "f32"))


def _experts(args: OpArgs) -> Outputs:
    x, w13, w2 = args.shape(0), args.weight_shape(0), args.weight_shape(1)
    if w13[2] != x[-1] or w2[1] != x[-1] or w13[1] != w2[2] * 2:
        raise shape_error("experts", f"x {x}, w13 {w13} = [ep, 2*mlp, D], w2 {w2} = [ep, D, mlp]")
    return _same(args)


def _expert_flops(args: OpArgs) -> Dim:
    w13, rows, k = args.weight_shape(0), args.shape(1)[0], args.shape(1)[1]
    return rows * k * w13[1] * w13[2] * 3


def _all_reduce(args: OpArgs) -> Outputs:
    _norm_shape("all_reduce", args.shape(0), *args.weights)
    return _keeps_dtype(args)


def _all_gather(args: OpArgs) -> Outputs:
    x, axis = args.shape(0), args.attrs["axis"] % len(args.shape(0))
    value = args.inputs[0]
    assert value is not None
    return (((*x[:axis], args.attrs["size"], *x[axis + 1 :]), value.dtype),)


def _add_rms_norm(args: OpArgs) -> Outputs:
    _norm_shape("add_rms_norm", args.shape(0), *args.weights)
    return (*_add(args), *_same(args))


def _rotary_cache_write(args: OpArgs) -> Outputs:
    return ((args.shape(0), "act"), ((), "cache"))


def _linear_flops(args: OpArgs) -> Dim:
    return num_elements(args.shape(0)) * args.weight_shape(0)[0] * 2


def _attention_flops(args: OpArgs) -> Dim:
    tokens, heads, head_dim = args.shape(0)
    return tokens * heads * (head_dim + _value_width(args)) * Dim.of("C") * 2


_ROTARY_ATTRS = {"table": REQUIRED, "style": "neox"}
_RMS_ATTRS = {"eps": REQUIRED, "weight_offset": 0.0, "round_before_weight": False}
_no_flops = elementwise_flops(0)

_SPECS = (
    OpSpec(
        "embedding",
        ("ids",),
        ("weight",),
        ("out",),
        {"scale": 1.0},
        _embedding,
        _no_flops,
        contracts=lambda a: (a.weight_shape(0)[0],),
    ),
    OpSpec(
        "linear",
        ("x",),
        ("weight", "bias?"),
        ("out",),
        {"out_dtype": "act"},
        _linear,
        _linear_flops,
        contracts=lambda a: (a.weight_shape(0)[1],),
    ),
    OpSpec(
        "rms_norm",
        ("x",),
        ("weight",),
        ("out",),
        _RMS_ATTRS,
        _norm("rms_norm"),  # type: ignore[arg-type]
        elementwise_flops(4),
        in_place=((0, 0),),
    ),
    OpSpec(
        "layer_norm",
        ("x",),
        ("weight", "bias?"),
        ("out",),
        {"eps": REQUIRED},
        _norm("layer_norm"),  # type: ignore[arg-type]
        elementwise_flops(7),
        in_place=((0, 0),),
    ),
    OpSpec("add", ("a", "b"), (), ("out",), {}, _add, elementwise_flops(1), in_place=((0, 0), (1, 0))),
    OpSpec("scale", ("x",), (), ("out",), {"factor": REQUIRED}, _keeps_dtype, elementwise_flops(1), in_place=((0, 0),)),
    OpSpec("softcap", ("x",), (), ("out",), {"cap": REQUIRED}, _keeps_dtype, elementwise_flops(8), in_place=((0, 0),)),
    OpSpec("activation", ("x",), (), ("out",), {"act": REQUIRED}, _same, elementwise_flops(8), in_place=((0, 0),)),
    OpSpec(
        "gated_activation",
        ("gate", "up"),
        (),
        ("out",),
        {"act": REQUIRED},
        _gated,
        elementwise_flops(9),
        in_place=((0, 0), (1, 0)),
    ),
    OpSpec("split", ("x",), (), (), {"sizes": REQUIRED, "axis": -1}, _split, _no_flops, view=True),
    OpSpec("reshape", ("x",), (), ("out",), {"shape": REQUIRED}, _reshape, _no_flops, view=True),
    OpSpec("take_rows", ("x", "rows"), (), ("out",), {}, _take_rows, _no_flops, row_independent=False),
    OpSpec(
        "rotary", ("x", "positions"), (), ("out",), _ROTARY_ATTRS, _rotary, elementwise_flops(3), in_place=((0, 0),)
    ),
    OpSpec("cache_write", ("cache", "k", "v"), (), ("cache",), {}, _cache_write, lambda a: Dim.of(0)),
    OpSpec(
        "paged_attention",
        ("q", "cache"),
        ("sinks?",),
        ("out",),
        {"scale": REQUIRED, "window": 0, "softcap": 0.0, "causal": True, "alibi": 0.0, "v_head_dim": 0},
        _paged_attention,
        _attention_flops,
        features=("sinks", "alibi", "v_head_dim"),
    ),
    OpSpec(
        "route_experts",
        ("logits",),
        (),
        ("ids", "weights"),
        {"k": REQUIRED, "score": "softmax", "normalize": True, "scale": 1.0},
        _route_experts,
        elementwise_flops(6),
    ),
    OpSpec(
        "experts",
        ("x", "ids", "weights"),
        ("w13", "w2"),
        ("out",),
        {"act": REQUIRED},
        _experts,
        _expert_flops,
        workspace=lambda a: a.shape(1)[0] * a.shape(1)[1] * (a.weight_shape(0)[1] + a.weight_shape(0)[2]) * 4,
        contracts=lambda a: (a.weight_shape(0)[0], a.weight_shape(1)[2]),
    ),
    OpSpec("all_reduce", ("x",), ("bias?",), ("out",), {}, _all_reduce, _no_flops, in_place=((0, 0),)),
    OpSpec("all_gather", ("x",), (), ("out",), {"axis": REQUIRED, "size": REQUIRED}, _all_gather, _no_flops),
    OpSpec(
        "add_rms_norm",
        ("a", "b"),
        ("weight",),
        ("sum", "normed"),
        _RMS_ATTRS,
        _add_rms_norm,
        elementwise_flops(5),
        in_place=((0, 0), (1, 0)),
        fused_from=("add", "rms_norm"),
    ),
    OpSpec(
        "rotary_cache_write",
        ("q", "k", "v", "positions", "cache"),
        (),
        ("q", "cache"),
        _ROTARY_ATTRS,
        _rotary_cache_write,
        elementwise_flops(3),
        in_place=((0, 0),),
        fused_from=("rotary", "rotary", "cache_write"),
    ),
)

OPS: Mapping[str, OpSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every op by name."""

PLAIN_OPS = frozenset(spec.name for spec in _SPECS if not spec.fused_from)
OP_FEATURES = frozenset(f"{spec.name}.{name}" for spec in _SPECS for name in spec.features)
"""What `Capabilities.op_features` may name: operands and attributes that came after their op."""
FUSED_OPS = frozenset(spec.name for spec in _SPECS if spec.fused_from)
