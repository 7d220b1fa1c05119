"""gated_linear and linear_add: where they are taken, and that they give the bits of the ops they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.graph.ir import ModelGraph, Value
from quire.graph.passes import optimize
from quire.graph.shapes import T, shape_of
from quire.models import build_model_from_config
from quire_cpu import _native, flatten
from quire_cpu.flatten import FlatPlan
from quire_cpu.options import BFLOAT16_KERNELS, CpuOptions
from tests.backends.cpu.devices import Body, OneNode, one_node_logits, one_node_model
from tests.device.conftest import make_plan

DECODER = {
    "vocab_size": 131,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
STEPS = ([(0, 3)], [(0, 1), (1, 4)], [(2, 2), (1, 1), (0, 53)])


def ops_of(model: ModelGraph) -> list[str]:
    """Names of what a step runs, in order."""
    return list(FlatPlan(make_plan(model, block_size=16), CpuOptions.parse({"threads": "1"})).native.ops)


def decoder(architecture: str, **changes: Any) -> ModelGraph:
    model = build_model_from_config({"architectures": [architecture], **DECODER, **changes}).graph
    return optimize(model, frozenset({"add_rms_norm", "rotary_cache_write"}))


@pytest.mark.parametrize(
    ("architecture", "norms"), [("LlamaForCausalLM", ""), ("Qwen3ForCausalLM", "rms_norm+rms_norm+")]
)
def test_a_layer_is_eight_native_calls(architecture: str, norms: str) -> None:
    ops = ops_of(decoder(architecture))
    layer = [
        "linear",
        f"{norms}rotary+rotary_cache_write",
        "paged_attention",
        "linear_add",
        "rms_norm+prepare",
        "gated_linear",
        "linear_add",
    ]
    assert ops == [
        "embedding",
        "rms_norm+prepare",
        *layer,
        "rms_norm+prepare",
        *layer,
        "rms_norm",
        "take_rows",
        "linear",
    ]


def test_halves_that_are_no_whole_panels_stay_three_calls() -> None:
    ops = ops_of(decoder("LlamaForCausalLM", intermediate_size=40))
    assert "gated_linear" not in ops
    assert ops.count("gated_activation+prepare") == 2


def _mlp(n: OneNode, x: Value, read: Callable[[OneNode, list[Value]], Value]) -> Value:
    merged = n.t.linear(x, n.weight("w", 96, 48), n.weight("b", 96))
    gate, up = n.t.split(merged, sizes=shape_of(48, 48))
    return read(n, [merged, gate, up])


BODIES: dict[str, tuple[bool, Callable[[OneNode, list[Value]], Value]]] = {
    "plain": (True, lambda n, v: n.t.gated_activation(v[1], v[2], act="silu")),
    "gate second": (False, lambda n, v: n.t.gated_activation(v[2], v[1], act="silu")),
    "gate read again": (False, lambda n, v: n.t.add(n.t.gated_activation(v[1], v[2], act="silu"), v[1])),
    "all read again": (
        False,
        lambda n, v: n.t.add(n.t.gated_activation(v[1], v[2], act="silu"), n.t.linear(v[0], n.weight("v", 48, 96))),
    ),
}


def _body(name: str) -> Body:
    return lambda n, x: _mlp(n, x, BODIES[name][1])


@pytest.mark.parametrize("name", BODIES)
def test_only_results_that_nobody_else_reads_are_left_out(name: str) -> None:
    model = one_node_model(_body(name), 48)
    assert ("gated_linear" in ops_of(model)) == BODIES[name][0]
    found, expected = one_node_logits("cpu", model, STEPS), one_node_logits("reference", model, STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_split_rows_are_no_halves() -> None:
    def body(n: OneNode, x: Value) -> Value:
        heads = n.t.reshape(n.t.linear(x, n.weight("w", 96, 48)), shape=shape_of(T, 2, 48))
        gate, up = n.t.split(heads, sizes=shape_of(24, 24))
        return n.t.gated_activation(gate, up, act="silu")

    assert "gated_linear" not in ops_of(one_node_model(body, 48))


def _residual(read: Callable[[OneNode, Value, Value, Value], Value]) -> Body:
    """read(residual, linear's result, another array) of a layer; the residual may be overwritten."""

    def body(n: OneNode, x: Value) -> Value:
        residual = n.t.scale(x, factor=0.5)
        other = n.t.activation(x, act="silu")
        return read(n, residual, n.t.linear(other, n.weight("w", 48, 48), n.weight("b", 48)), other)

    return body


def _normed(n: OneNode, a: Value, b: Value) -> Value:
    total, normed = n.t.add_rms_norm(a, b, n.weight("g", 48), eps=1e-6, weight_offset=1.0)
    return n.t.add(n.t.scale(total, factor=3.0), normed)


ADDED: dict[str, tuple[bool, Body]] = {
    "residual first": (True, _residual(lambda n, r, y, o: _normed(n, r, y))),
    "residual second": (True, _residual(lambda n, r, y, o: _normed(n, y, r))),
    "result read again": (False, _residual(lambda n, r, y, o: n.t.add(_normed(n, r, y), y))),
    "residual read again": (True, _residual(lambda n, r, y, o: n.t.add(_normed(n, r, y), r))),
    "added to itself": (False, _residual(lambda n, r, y, o: n.t.add(_normed(n, y, y), r))),
    "added to what it reads": (False, _residual(lambda n, r, y, o: n.t.add(_normed(n, o, y), r))),
}


@pytest.mark.parametrize("name", ADDED)
def test_a_residual_is_added_where_nobody_else_reads_the_result(name: str) -> None:
    fused, body = ADDED[name]
    model = one_node_model(body, 48)
    assert ("linear_add" in ops_of(model)) == fused
    found, expected = one_node_logits("cpu", model, STEPS), one_node_logits("reference", model, STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", ["avx512_bf16", "avx512_vnni", "avx512", "avx2", "portable"])
@pytest.mark.parametrize("weight_dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("act", ["silu", "gelu_tanh"])
def test_bits_are_those_of_single_ops(
    kernels: str, weight_dtype: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels not in _native.available_kernels():
        pytest.skip(f"this machine has no {kernels} kernels")

    def body(n: OneNode, x: Value) -> Value:
        residual = n.t.scale(x, factor=0.5)
        normed = n.t.rms_norm(x, n.weight("g0", 48), eps=1e-6)
        hidden = _mlp(n, normed, lambda n, v: n.t.gated_activation(v[1], v[2], act=act))
        return _normed(n, residual, n.t.linear(hidden, n.weight("down", 48, 48), n.weight("b2", 48)))

    model = one_node_model(body, 48)
    changes: dict[str, Any] = {
        "weight_dtype": weight_dtype,
        "options": {"kernels": kernels, "poison": "true", "threads": "2"},
        "act_dtype": "bfloat16" if kernels == BFLOAT16_KERNELS else "float32",
    }
    assert {"gated_linear", "linear_add"} <= set(ops_of(model))
    fused = one_node_logits("cpu", model, STEPS, **changes)
    monkeypatch.setattr(flatten, "gates_its_halves", lambda *_: False)
    monkeypatch.setattr(flatten, "added_operand", lambda *_: None)
    assert not {"gated_linear", "linear_add"} & set(ops_of(model))
    assert np.isfinite(fused).all()
    np.testing.assert_array_equal(fused, one_node_logits("cpu", model, STEPS, **changes))
