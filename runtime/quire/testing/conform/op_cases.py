"""The fixed L2 cases: for each op the shapes and attributes that implementations get wrong.

Rows are (variant, sizes, attributes, further fields of OpCase). To add a case, add a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quire.device.capabilities import Capabilities
from quire.graph.kv_arrays import QUANTIZED_KV_DTYPES
from quire.graph.ops import ACTIVATIONS, OPS
from quire.graph.rope import RopeSpec
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.subject import Dtypes

_Row = tuple[str, Mapping[str, int], Mapping[str, Any], Mapping[str, Any]]

_GQA = {"heads": 4, "kv_heads": 2, "head_dim": 16}
_RAGGED = ((0, 3), (7, 1), (17, 4), (0, 1))
_LONG = ((33, 2), (0, 19))
_ROPE = RopeSpec(10000.0, 16)


def _attention(
    variant: str,
    lines: tuple[tuple[int, int], ...] = _RAGGED,
    sizes: Mapping[str, int] = _GQA,
    spread: float = 1.0,
    **attrs: Any,
) -> _Row:
    return variant, sizes, attrs, {"lines": lines, "spread": spread}


FIXED: dict[str, tuple[_Row, ...]] = {
    "embedding": (
        ("plain", {"width": 24}, {}, {}),
        ("one_token", {"width": 16}, {}, {"lines": ((0, 1),)}),
        ("scale_that_rounds", {"width": 16}, {"scale": 59.866518188383935}, {}),
    ),
    "linear": (
        ("square", {"width": 32, "out": 32}, {}, {}),
        ("odd_sizes", {"width": 37, "out": 19}, {}, {"lines": ((0, 7),)}),
        ("one_row_bias", {"width": 48, "out": 17, "bias": 1}, {}, {"lines": ((0, 1),)}),
        ("wide_sum", {"width": 1030, "out": 8}, {}, {"lines": ((0, 2),)}),
        ("f32_result_bias", {"width": 40, "out": 33, "bias": 1, "in_head": 1}, {}, {}),
        ("large_values", {"width": 64, "out": 16}, {}, {"spread": 100.0}),
        ("many_rows", {"width": 16, "out": 24}, {}, {"lines": ((0, 65),)}),
    ),
    "rms_norm": (
        ("plain", {"width": 40}, {"eps": 1e-6}, {}),
        ("offset", {"width": 40}, {"eps": 1e-6, "weight_offset": 1.0}, {}),
        ("round_before_weight", {"width": 33}, {"eps": 1e-5, "round_before_weight": True}, {}),
        ("tiny_values_under_eps", {"width": 32}, {"eps": 1e-5}, {"spread": 1e-3}),
        ("squares_beyond_float16", {"width": 32}, {"eps": 1e-6}, {"spread": 900.0}),
        ("per_head", {"heads": 3, "head_dim": 16}, {"eps": 1e-6}, {}),
    ),
    "layer_norm": (
        ("bias", {"width": 40, "bias": 1}, {"eps": 1e-5}, {}),
        ("no_bias", {"width": 33}, {"eps": 1e-5}, {}),
        ("squares_beyond_float16", {"width": 32, "bias": 1}, {"eps": 1e-5}, {"spread": 900.0}),
    ),
    "add": (("plain", {"width": 24}, {}, {}), ("one_row", {"width": 7}, {}, {"lines": ((0, 1),)})),
    "scale": (
        ("layer", {"width": 24}, {"factor": 0.37}, {}),
        ("f32", {"width": 24, "in_head": 1}, {"factor": 0.37}, {}),
    ),
    "softcap": (
        ("layer", {"width": 24}, {"cap": 5.0}, {"spread": 4.0}),
        ("f32", {"width": 24, "in_head": 1}, {"cap": 5.0}, {"spread": 4.0}),
        ("far_beyond_cap", {"width": 24}, {"cap": 30.0}, {"spread": 1000.0}),
    ),
    "activation": tuple((act, {"width": 24}, {"act": act}, {"spread": 3.0}) for act in ACTIVATIONS),
    "gated_activation": (
        *((act, {"width": 24}, {"act": act}, {"spread": 3.0}) for act in ACTIVATIONS),
        ("saturated", {"width": 24}, {"act": "silu"}, {"spread": 60.0}),
    ),
    "split": tuple((f"result_{i}", {"a": 8, "b": 24, "c": 5, "result": i}, {}, {}) for i in range(3)),
    "reshape": (("heads", {"heads": 3, "head_dim": 16}, {}, {}),),
    "take_rows": (("shuffled_repeated", {"width": 24}, {}, {"lines": ((0, 9), (0, 4))}),),
    "rotary": (
        ("neox", {"heads": 3, "head_dim": 16}, {"table": _ROPE}, {"lines": ((5, 4), (0, 2), (90, 1))}),
        ("gptj", {"heads": 3, "head_dim": 16}, {"table": _ROPE, "style": "gptj"}, {"lines": ((5, 4),)}),
        ("partial", {"heads": 2, "head_dim": 16}, {"table": RopeSpec(5e5, 8)}, {"lines": ((5, 4),)}),
        ("linear", {"heads": 2, "head_dim": 16}, {"table": RopeSpec(1e4, 16, "linear", 4.0)}, {"lines": ((50, 3),)}),
        (
            "llama3",
            {"heads": 2, "head_dim": 16},
            {"table": RopeSpec(1e4, 16, "llama3", 8.0, original_max_len=32)},
            {"lines": ((60, 3),)},
        ),
        (
            "yarn",
            {"heads": 2, "head_dim": 16},
            {"table": RopeSpec(1e4, 16, "yarn", 4.0, original_max_len=512, attention_factor=1.14)},
            {"lines": ((60, 3),)},
        ),
    ),
    "cache_write": (_attention("ragged"), _attention("block_edges", ((15, 2), (16, 1), (0, 16), (31, 33)))),
    "paged_attention": (
        _attention("ragged"),
        _attention("one_token", ((0, 1),)),
        _attention("long_prefix", _LONG),
        _attention("scale", scale=0.9),
        _attention("multi_head", _RAGGED, {"heads": 3, "kv_heads": 3, "head_dim": 16}),
        _attention("multi_query", _RAGGED, {"heads": 6, "kv_heads": 1, "head_dim": 16}),
        _attention("odd_group", _RAGGED, {"heads": 10, "kv_heads": 2, "head_dim": 32}),
        _attention("window", _LONG, window=9),
        _attention("window_of_one", _RAGGED, window=1),
        _attention("window_at_block_edge", _LONG, window=16),
        _attention("softcap", _RAGGED, spread=3.0, softcap=2.0),
        _attention("softcap_window", _LONG, spread=3.0, softcap=2.0, window=7),
        _attention("peaked_scores", _RAGGED, spread=12.0),
        _attention("not_causal", ((0, 7), (0, 2)), causal=False),
        _attention("sinks", _RAGGED, {**_GQA, "sinks": 1}),
        _attention("sinks_window_softcap", _LONG, {**_GQA, "sinks": 1}, spread=3.0, window=9, softcap=2.0),
        _attention("alibi", _LONG, {"heads": 4, "kv_heads": 4, "head_dim": 16}, alibi=8.0),
        _attention("alibi_odd_heads", _RAGGED, {"heads": 6, "kv_heads": 2, "head_dim": 16}, alibi=4.0),
        _attention("alibi_sinks_window", _LONG, {**_GQA, "sinks": 1}, alibi=8.0, window=20),
        _attention("narrow_values", _LONG, {"heads": 4, "kv_heads": 2, "head_dim": 48}, v_head_dim=32, window=9),
        _attention("wide_values", _RAGGED, v_head_dim=32),
    ),
    "route_experts": (
        ("softmax", {"width": 24, "mlp": 16, "experts": 7}, {"k": 2}, {}),
        ("not_normalized", {"width": 24, "mlp": 16, "experts": 7}, {"k": 3, "normalize": False}, {}),
        ("sigmoid_scaled", {"width": 24, "mlp": 16, "experts": 7}, {"k": 2, "score": "sigmoid", "scale": 2.5}, {}),
        (
            "ties_take_the_lower_id",
            {"width": 24, "mlp": 16, "experts": 7},
            {"k": 2},
            {"zero_weights": frozenset({"router"})},
        ),
    ),
    "experts": (
        ("one_of_four", {"width": 24, "mlp": 40, "experts": 4}, {"k": 1}, {}),
        ("all", {"width": 16, "mlp": 8, "experts": 3}, {"k": 3}, {}),
        ("gelu_one_row", {"width": 16, "mlp": 24, "experts": 5}, {"k": 2, "act": "gelu_tanh"}, {"lines": ((0, 1),)}),
    ),
    "add_rms_norm": tuple(
        (f"{name}_{'sum' if result == 0 else 'normed'}", {"width": 40, "result": result}, attrs, {})
        for name, attrs in (
            ("plain", {"eps": 1e-6}),
            ("offset", {"eps": 1e-6, "weight_offset": 1.0}),
            ("round_before_weight", {"eps": 1e-5, "round_before_weight": True}),
        )
        for result in (0, 1)
    ),
    "all_reduce": (("one_rank", {"width": 24}, {}, {}), ("one_rank_bias", {"width": 37, "bias": 1}, {}, {})),
    "all_gather": (
        ("one_rank", {"width": 24, "kept": 24}, {}, {}),
        ("one_rank_without_padding", {"width": 24, "kept": 19}, {}, {"lines": ((0, 3),)}),
    ),
    "rotary_cache_write": (
        _attention("neox", table=_ROPE),
        _attention("gptj_long", _LONG, table=_ROPE, style="gptj"),
        _attention("partial", _RAGGED, {"heads": 4, "kv_heads": 2, "head_dim": 32}, table=RopeSpec(5e5, 16)),
    ),
}
"""Op -> its fixed cases."""

QUANTIZED_CACHE_TOLERANCE = 3e-2
"""For values computed before they are quantized into a cache: one that lies between two steps may go to either."""

QUANTIZED_READ_TOLERANCE = 3e-5
"""For attention over equal quantized pages: scales may be applied to elements or to sums."""

_MATRIX_OPS = frozenset({"embedding", "linear", "experts"})
_CACHE_OPS = frozenset({"cache_write", "paged_attention", "rotary_cache_write"})


def dtypes_of(op: str, capabilities: Capabilities) -> Iterator[Dtypes]:
    """Every activation dtype; with it every weight dtype for matrices and every KV dtype for caches."""
    for act in capabilities.act_dtypes:
        weights = _first(act, capabilities.weight_dtypes)
        caches = _first(act, capabilities.kv_dtypes)
        for weight in weights if op in _MATRIX_OPS else weights[:1]:
            for kv in caches if op in _CACHE_OPS else caches[:1]:
                yield Dtypes(act, weight, kv)


def tolerance(case: OpCase) -> float:
    """The op's bound for the activation dtype; where computed values are rounded into a cache, for the coarser one."""
    bounds = OPS[case.op].tolerance
    if case.op == "rotary_cache_write":
        return max(bounds[case.dtypes.act], bounds.get(case.dtypes.kv, QUANTIZED_CACHE_TOLERANCE))
    if case.op in _CACHE_OPS and case.dtypes.kv in QUANTIZED_KV_DTYPES:
        return max(bounds[case.dtypes.act], QUANTIZED_READ_TOLERANCE)
    return bounds[case.dtypes.act]


def undeclared_features(
    op: str, capabilities: Capabilities, sizes: Mapping[str, int], attrs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Features of the op that a case with these sizes and attributes needs and the device does not declare."""
    needed = (f"{op}.{name}" for name in OPS[op].features if sizes.get(name) or attrs.get(name))
    return tuple(feature for feature in needed if feature not in capabilities.op_features)


def fixed_cases(op: str, capabilities: Capabilities, seed: int) -> Iterator[OpCase]:
    """The op's fixed cases in every dtype that the device declares, of the features that it declares."""
    for variant, sizes, attrs, fields in FIXED.get(op, ()):
        if undeclared_features(op, capabilities, sizes, attrs):
            continue
        for dtypes in dtypes_of(op, capabilities):
            yield OpCase(op, variant, sizes, attrs, dtypes, seed=seed, **fields)


def _first(wanted: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(declared, key=lambda name: name != wanted))
