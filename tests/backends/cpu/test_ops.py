"""Every op of the neutral set, and the fused ones, in a graph of one node: the cpu device against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from quire.graph.ir import Value
from quire.graph.op_spec import OpSpec
from quire.graph.ops import ACTIVATIONS, OPS
from quire.graph.rope import RopeSpec
from quire.graph.shapes import T, shape_of
from quire_cpu.plugin import CAPABILITIES
from tests.backends.cpu.devices import Body, OneNode, one_node_logits, one_node_model

STEPS = ([(0, 5), (1, 1)], [(1, 9), (0, 1), (2, 21)], [(2, 2), (0, 30), (1, 1)])


def _linear(bias: bool) -> Body:
    def body(n: OneNode, x: Value) -> Value:
        return n.t.linear(x, n.weight("w", 37, 48), n.weight("b", 37) if bias else None, out_dtype="f32")

    return body


def _linear_3d(n: OneNode, x: Value) -> Value:
    return n.t.linear(n.t.reshape(x, shape=shape_of(T, 3, 16)), n.weight("w", 10, 16))


def _rms_norm(offset: float) -> Body:
    return lambda n, x: n.t.rms_norm(x, n.weight("g", 48), eps=1e-5, weight_offset=offset)


def _head_norm(n: OneNode, x: Value) -> Value:
    return n.t.rms_norm(n.t.reshape(x, shape=shape_of(T, 3, 16)), n.weight("g", 16), eps=1e-6, round_before_weight=True)


def _layer_norm(bias: bool) -> Body:
    return lambda n, x: n.t.layer_norm(x, n.weight("g", 48), n.weight("b", 48) if bias else None, eps=1e-5)


def _halves(n: OneNode, x: Value) -> tuple[Value, Value]:
    a, b = n.t.split(x, sizes=shape_of(24, 24))
    return a, b


def _gated(act: str) -> Body:
    return lambda n, x: n.t.gated_activation(*_halves(n, x), act=act)


def _activation(act: str) -> Body:
    return lambda n, x: n.t.activation(x, act=act)


def _add_rms_norm(n: OneNode, x: Value) -> Value:
    a, b = _halves(n, x)
    total, normed = n.t.add_rms_norm(a, b, n.weight("g", 24), eps=1e-6, weight_offset=1.0)
    return n.t.add(n.t.scale(total, factor=3.0), normed)


def _inner_split(n: OneNode, x: Value) -> Value:
    """Parts of every head: no view can hold them, so they are copied."""
    a, b = n.t.split(n.t.reshape(x, shape=shape_of(T, 3, 16)), sizes=shape_of(6, 10), axis=-1)
    first = n.t.linear(n.t.reshape(a, shape=shape_of(T, 18)), n.weight("v", 30, 18))
    return n.t.add(first, n.t.reshape(b, shape=shape_of(T, 30)))


def _strided_reshape(n: OneNode, x: Value) -> Value:
    _, b = _halves(n, x)
    return n.t.reshape(n.t.reshape(b, shape=shape_of(T * 2, 12)), shape=shape_of(T, 24))


def _rotary(style: str, dims: int) -> Body:
    def body(n: OneNode, x: Value) -> Value:
        return n.t.rotary(
            n.t.reshape(x, shape=shape_of(T, 3, 16)), n.positions, table=RopeSpec(theta=10000.0, dims=dims), style=style
        )

    return body


def _qkv(n: OneNode, x: Value, heads: int) -> tuple[Value, Value, Value]:
    q, k, v = n.t.split(x, sizes=shape_of(heads * 16, 32, 32))
    return (
        n.t.reshape(q, shape=shape_of(T, heads, 16)),
        n.t.reshape(k, shape=shape_of(T, 2, 16)),
        n.t.reshape(v, shape=shape_of(T, 2, 16)),
    )


def _attention(heads: int, window: int = 0, softcap: float = 0.0) -> Body:
    def body(n: OneNode, x: Value) -> Value:
        q, k, v = _qkv(n, x, heads)
        n.cache = n.t.cache_write(n.cache, k, v)
        return n.t.paged_attention(q, n.cache, scale=0.25, window=window, softcap=softcap)

    return body


def _rotary_cache_write(style: str) -> Body:
    def body(n: OneNode, x: Value) -> Value:
        q, k, v = _qkv(n, x, 4)
        table = RopeSpec(theta=500.0, dims=16)
        q, n.cache = n.t.rotary_cache_write(q, k, v, n.positions, n.cache, table=table, style=style)
        return n.t.paged_attention(q, n.cache, scale=0.25)

    return body


def _route(score: str, normalize: bool) -> Body:
    def body(n: OneNode, x: Value) -> Value:
        logits = n.t.linear(x, n.weight("router", 8, 48), out_dtype="f32")
        ids, weights = n.t.route_experts(logits, k=3, score=score, normalize=normalize, scale=1.5)
        return n.t.experts(x, ids, weights, n.weight("w13", 8, 40, 48), n.weight("w2", 8, 48, 20), act="silu")

    return body


def _route_weights(n: OneNode, x: Value) -> Value:
    return n.t.route_experts(n.t.linear(x, n.weight("router", 8, 48), out_dtype="f32"), k=3)[1]


def _all_reduce(n: OneNode, x: Value) -> Value:
    return n.t.all_reduce(x, n.weight("b", 48))


CASES: dict[str, tuple[str, int, Body]] = {
    "linear": ("linear", 48, _linear(False)),
    "linear bias": ("linear", 48, _linear(True)),
    "linear on heads": ("linear", 48, _linear_3d),
    "rms_norm": ("rms_norm", 48, _rms_norm(0.0)),
    "rms_norm offset": ("rms_norm", 48, _rms_norm(1.0)),
    "rms_norm of heads": ("rms_norm", 48, _head_norm),
    "layer_norm": ("layer_norm", 48, _layer_norm(False)),
    "layer_norm bias": ("layer_norm", 48, _layer_norm(True)),
    "add": ("add", 48, lambda n, x: n.t.add(*_halves(n, x))),
    "add twice": ("add", 48, lambda n, x: n.t.add(x, x)),
    "scale": ("scale", 48, lambda n, x: n.t.scale(x, factor=1.7)),
    "softcap": ("softcap", 48, lambda n, x: n.t.softcap(x, cap=1.3)),
    **{f"activation {act}": ("activation", 48, _activation(act)) for act in ACTIVATIONS},
    **{f"gated_activation {act}": ("gated_activation", 48, _gated(act)) for act in ("silu", "gelu_tanh")},
    "split inside heads": ("split", 48, _inner_split),
    "reshape of a strided view": ("reshape", 48, _strided_reshape),
    "rotary neox": ("rotary", 48, _rotary("neox", 16)),
    "rotary gptj": ("rotary", 48, _rotary("gptj", 16)),
    "rotary partial": ("rotary", 48, _rotary("neox", 6)),
    "paged_attention": ("paged_attention", 128, _attention(4)),
    "paged_attention mha": ("paged_attention", 96, _attention(2)),
    "paged_attention window": ("paged_attention", 128, _attention(4, window=7)),
    "paged_attention softcap": ("cache_write", 128, _attention(4, softcap=2.0)),
    "add_rms_norm": ("add_rms_norm", 48, _add_rms_norm),
    "rotary_cache_write neox": ("rotary_cache_write", 128, _rotary_cache_write("neox")),
    "rotary_cache_write gptj": ("rotary_cache_write", 128, _rotary_cache_write("gptj")),
    "experts softmax": ("experts", 48, _route("softmax", True)),
    "experts sigmoid": ("experts", 48, _route("sigmoid", False)),
    "route_experts": ("route_experts", 48, _route_weights),
    "all_reduce bias": ("all_reduce", 48, _all_reduce),
    "all_gather": ("all_gather", 48, lambda n, x: n.t.all_gather(x, axis=-1, size=shape_of(45)[0])),
    "embedding": ("embedding", 48, lambda n, x: x),
    "take_rows": ("take_rows", 48, lambda n, x: x),  # the head of every case takes rows
}


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    rms = np.sqrt(np.mean(np.square(expected)))
    return float((np.abs(found - expected) / (np.abs(expected) + rms)).max())


def _tolerance(spec: OpSpec) -> float:
    """That of float32 also for 16-bit weights and caches, which the reference rounds in the same way."""
    return 2 * spec.tolerance["float32"]


@pytest.mark.parametrize("case", CASES)
def test_op_equals_the_reference(case: str) -> None:
    op, width, body = CASES[case]
    model = one_node_model(body, width)
    found = one_node_logits("cpu", model, STEPS)
    expected = one_node_logits("reference", model, STEPS)
    assert found.shape == expected.shape
    assert _error(found, expected) <= _tolerance(OPS[op])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["linear bias", "experts softmax", "rms_norm", "embedding"])
def test_16_bit_weights_equal_the_reference_with_rounded_weights(case: str, dtype: str) -> None:
    op, width, body = CASES[case]
    model = one_node_model(body, width)
    found = one_node_logits("cpu", model, STEPS, weight_dtype=dtype)
    expected = one_node_logits("reference", model, STEPS, weight_dtype=dtype)
    assert _error(found, expected) <= _tolerance(OPS[op])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("case", ["paged_attention", "paged_attention window", "rotary_cache_write neox"])
def test_narrow_caches_equal_the_reference_with_a_rounded_cache(case: str, dtype: str) -> None:
    op, width, body = CASES[case]
    model = one_node_model(body, width)
    found = one_node_logits("cpu", model, STEPS, kv_dtype=dtype)
    expected = one_node_logits("reference", model, STEPS, kv_dtype=dtype)
    assert _error(found, expected) <= _tolerance(OPS[op])


def test_every_op_of_the_device_has_a_case() -> None:
    assert (CAPABILITIES.ops | CAPABILITIES.fused_ops) - {op for op, _, _ in CASES.values()} == set()


@pytest.mark.parametrize("case", ["linear bias", "paged_attention", "experts softmax"])
def test_the_portable_kernels_equal_the_reference(case: str) -> None:
    op, width, body = CASES[case]
    model = one_node_model(body, width)
    found = one_node_logits("cpu", model, STEPS, options={"kernels": "portable", "poison": "true"})
    assert _error(found, one_node_logits("reference", model, STEPS)) <= _tolerance(OPS[op])


def test_an_op_gone_wrong_is_seen() -> None:
    """The comparison has teeth: another window gives another answer."""
    wrong = one_node_logits("cpu", one_node_model(_attention(4, window=8), 128), STEPS)
    expected = one_node_logits("reference", one_node_model(_attention(4, window=7), 128), STEPS)
    assert _error(wrong, expected) > 1e-3
