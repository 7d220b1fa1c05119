from __future__ import annotations

import pytest

from quire.graph.cost import (
    Cost,
    Dtypes,
    Step,
    decode_cost,
    model_cost,
    node_cost,
    part_cost,
    prefill_cost,
    weight_totals,
)
from quire.graph.ops import FUSED_OPS
from quire.graph.passes import optimize
from quire.graph.shard import shard

F32 = Dtypes(weight="float32", act="float32", kv="float32")
LAYER = 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 48  # multiply-adds of one token through the tiny Qwen3's linears


def test_parameters_count_a_tied_weight_once(tiny) -> None:
    norms = 2 * 32 + 2 * 8
    parameters, num_bytes = weight_totals(tiny("qwen3"), "bfloat16")
    assert parameters == 131 * 32 + 3 * (LAYER + norms) + 32
    assert num_bytes == 2 * parameters
    untied, _ = weight_totals(tiny("qwen3", tie_word_embeddings=False), "bfloat16")
    assert untied == parameters + 131 * 32


def test_a_real_model_has_its_published_size(tiny) -> None:
    model = tiny(
        "qwen3",
        vocab_size=151936,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        head_dim=128,
        num_key_value_heads=8,
        intermediate_size=3072,
    )  # Qwen3-0.6B
    assert weight_totals(model, "bfloat16") == (596_049_920, 1_192_099_840)


def test_schemes_have_their_own_size(tiny) -> None:
    parameters, _ = weight_totals(tiny("qwen3"), "bfloat16")
    assert weight_totals(tiny("qwen3"), "bfloat16", {"plain": 4.0})[1] == pytest.approx(parameters / 2, abs=40)


def test_flops_of_a_decode_step(tiny) -> None:
    model = tiny("qwen3")
    linears = sum(
        node_cost(model, part, node, Step(1, 1, 1, 10), F32).flops
        for part in model.parts()
        for node in part.graph.nodes
        if node.op == "linear"
    )
    assert linears == 2 * (3 * LAYER + 131 * 32)
    attention = next(node for node in model.layers[0].graph.nodes if node.op == "paged_attention")
    assert node_cost(model, model.layers[0], attention, Step(1, 1, 1, 10), F32).flops == 4 * 32 * 10


def test_decode_bytes(tiny) -> None:
    cost = decode_cost(tiny("qwen3"), 10, F32)
    norms = 2 * 32 + 2 * 8
    one_row, head = 32, 131 * 32
    assert cost.weight_bytes == 4 * (one_row + 3 * (LAYER + norms) + 32 + head)
    per_token = 3 * 2 * 2 * 8 * 4
    assert cost.kv_bytes == per_token * (10 + 1)  # 10 read, 1 written
    assert cost.total_bytes == cost.weight_bytes + cost.activation_bytes + cost.kv_bytes


def test_batched_decode_reads_weights_once(tiny) -> None:
    one, many = decode_cost(tiny("qwen3"), 10, F32), decode_cost(tiny("qwen3"), 10, F32, num_seqs=8)
    assert many.flops == 8 * one.flops
    assert many.kv_bytes == 8 * one.kv_bytes
    assert many.weight_bytes - one.weight_bytes == 7 * 32 * 4


def test_windows_bound_flops_and_kv_reads(tiny) -> None:
    model = tiny("gemma2", num_hidden_layers=2)  # window 5, then full
    attention = [(layer, next(n for n in layer.graph.nodes if n.op == "paged_attention")) for layer in model.layers]
    sliding, full = (node_cost(model, layer, node, Step(1, 1, 1, 100), F32) for layer, node in attention)
    assert full.flops == 20 * sliding.flops
    assert full.kv_bytes == 20 * sliding.kv_bytes


@pytest.mark.parametrize(
    ("step", "window", "expected"),
    [
        (Step(1, 1, 1, 10), 0, 10),
        (Step(10, 1, 1, 10), 0, 6),
        (Step(4, 1, 1, 10), 0, 9),
        (Step(8, 2, 2, 4), 0, 3),
        (Step(10, 1, 1, 10), 4, 3),
        (Step(1, 1, 1, 10), 4, 4),
        (Step(10, 1, 1, 10), 20, 6),
    ],
)
def test_mean_kv_tokens(step: Step, window: int, expected: int) -> None:
    assert step.mean_kv_tokens(window, causal=True) == expected
    rows = step.num_tokens // step.num_seqs
    seen = [min(step.context - rows + 1 + i, window or 10**9) for i in range(rows)]
    assert abs(sum(seen) / rows - expected) <= 0.5
    assert step.mean_kv_tokens(window, causal=False) == step.context


def test_experts_read_what_the_tokens_reach(tiny) -> None:
    model = tiny("mixtral")
    layer = model.layers[0]
    node = next(node for node in layer.graph.nodes if node.op == "experts")
    whole = 4 * 3 * 48 * 32 * 4
    one = node_cost(model, layer, node, Step(1, 1, 1, 1), F32)
    assert one.weight_bytes == whole // 2  # 2 of 4 experts
    assert one.flops == 2 * 2 * 3 * 48 * 32
    assert node_cost(model, layer, node, Step(64, 1, 1, 64), F32).weight_bytes == pytest.approx(whole, rel=1e-6)


def test_prefill_and_passes_and_ranks(tiny) -> None:
    model = tiny("qwen3")
    assert prefill_cost(model, 64, F32).flops > 60 * decode_cost(model, 1, F32).flops - 64 * 2 * 131 * 32
    fused = optimize(model, FUSED_OPS)
    step = Step(16, 2, 2, 16)
    assert model_cost(fused, step, F32).weight_bytes == model_cost(model, step, F32).weight_bytes
    assert model_cost(fused, step, F32).kv_bytes == model_cost(model, step, F32).kv_bytes
    assert model_cost(fused, step, F32).activation_bytes < model_cost(model, step, F32).activation_bytes
    assert model_cost(shard(model, 2), step, F32).weight_bytes < 0.6 * model_cost(model, step, F32).weight_bytes


def test_parts_add_up(tiny) -> None:
    model = tiny("qwen3")
    step = Step(4, 1, 1, 4)
    total = sum((part_cost(model, part, step, F32) for part in model.parts()), Cost())
    assert total == model_cost(model, step, F32)
