"""Schemes on matrices: which weights are asked for, tied ones together, and what merging makes of them."""

from __future__ import annotations

from collections import Counter

import pytest

from quire.graph.cost import Dtypes, Step, decode_cost, model_cost, scheme_totals
from quire.graph.ir import ModelGraph, Weight
from quire.graph.passes import assign_schemes, optimize
from quire.graph.report import inspect_model, report_lines


def asked_of(model: ModelGraph) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []

    def scheme_of(weight: Weight, role: str) -> str:
        seen.append((weight.name, role))
        return "plain"

    assign_schemes(model, scheme_of)
    return seen


def schemes_of(model: ModelGraph) -> dict[str, str]:
    return {weight.name: weight.scheme for part in model.parts() for weight in part.graph.weights.values()}


def test_roles(tiny) -> None:
    seen = asked_of(tiny("mixtral"))
    assert Counter(role for _, role in seen) == {"linear": 4 * 3, "router": 3, "experts": 2 * 3, "head": 1}
    assert ("mlp.gate.weight", "router") in seen
    assert seen[-1] == ("lm_head.weight", "head")


def test_a_tied_embedding_follows_the_head(tiny) -> None:
    def scheme_of(weight: Weight, role: str) -> str:
        return "int8" if role == "head" else "int4_g32"

    tied = schemes_of(assign_schemes(tiny("qwen3"), scheme_of))
    assert tied["embed_tokens.weight"] == tied["lm_head.weight"] == "int8"
    assert tied["self_attn.q_proj.weight"] == "int4_g32"
    assert tied["input_layernorm.weight"] == "plain"
    untied = schemes_of(assign_schemes(tiny("qwen3", tie_word_embeddings=False), scheme_of))
    assert (untied["embed_tokens.weight"], untied["lm_head.weight"]) == ("plain", "int8")


def test_linears_of_several_schemes_stay_apart(tiny) -> None:
    def scheme_of(weight: Weight, role: str) -> str:
        return "int8" if "v_proj" in weight.name else "int4_g32"

    model = optimize(assign_schemes(tiny("qwen3"), scheme_of), frozenset())
    names = set(model.layers[0].graph.weights)
    assert "self_attn.q_proj.weight+self_attn.k_proj.weight" in names
    assert "self_attn.v_proj.weight" in names
    assert "mlp.gate_proj.weight+mlp.up_proj.weight" in names


def test_bytes_follow_the_schemes(tiny) -> None:
    plain = tiny("qwen3")
    model = assign_schemes(plain, lambda weight, role: "int8")
    dtypes = Dtypes(act="float32", scheme_bits={"int8": 8.0})
    totals = scheme_totals(model, dtypes)
    assert set(totals) == {"int8", "plain"}
    assert totals["int8"].num_bytes == totals["int8"].parameters
    assert totals["plain"].num_bytes == 2 * totals["plain"].parameters
    assert sum(total.num_weights for total in totals.values()) == scheme_totals(plain, dtypes)["plain"].num_weights
    half = decode_cost(model, 10, dtypes).weight_bytes / decode_cost(plain, 10, dtypes).weight_bytes
    assert half == pytest.approx(0.5, abs=0.02)
    assert model_cost(model, Step(4, 1, 1, 4), dtypes).flops == model_cost(plain, Step(4, 1, 1, 4), dtypes).flops
    found = inspect_model(model, dtypes=dtypes)
    assert found["schemes"]["int8"]["num_bytes"] == totals["int8"].num_bytes
    assert found["bytes"]["weights"] == sum(total.num_bytes for total in totals.values())
    line = next(line for line in report_lines(found) if line.startswith("weights"))
    assert f"int8 ({totals['int8'].num_weights} weights" in line
    assert "bfloat16 (" in line
    assert "bfloat16" in next(line for line in report_lines(inspect_model(plain)) if line.startswith("weights"))
