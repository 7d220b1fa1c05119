"""Values of a config have ranges, as values of requests have: what is outside is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import ModelError
from quire.models import ARCHITECTURES, ModelSpec, build_model_from_config
from tests.models.test_config import GPT2, LLAMA, config_of

NONSENSE: tuple[Any, ...] = (
    "x",
    "64",
    [],
    {},
    [64],
    True,
    -1,
    0,
    2**31,
    2**63,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e300,
)

MORE: dict[str, dict[str, Any]] = {
    "Gemma2ForCausalLM": {"head_dim": 16, "sliding_window": 9},
    "Gemma3ForCausalLM": {"head_dim": 16, "sliding_window": 9},
    "MistralForCausalLM": {"sliding_window": 9},
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2ForCausalLM": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "Qwen3MoeForCausalLM": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_only_layers": [0],
    },
}
OTHER_WORDS = ("rotated dimensions", "key-value heads", "dtype", "architecture")
"""Errors that name what several keys make together, or what a key of another name means."""


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"Gemma3ForConditionalGeneration"}))
def test_every_key_that_a_family_reads_has_a_range(architecture: str) -> None:
    config = GPT2 if architecture == "GPT2LMHeadModel" else config_of(architecture, **MORE.get(architecture, {}))
    for key in sorted(keys_read(config)):
        for value in NONSENSE:
            outcome = outcome_of({**config, key: value})
            if isinstance(outcome, ModelSpec):
                assert 1 <= outcome.max_model_len < 2**31, (key, value)
                continue
            assert any(word in str(outcome) for word in (key, *OTHER_WORDS)), (key, value, str(outcome))
            assert "at or after" not in outcome.what, (key, value, "only the last net caught it", str(outcome))


def outcome_of(config: dict[str, Any]) -> ModelSpec | ModelError:
    try:
        return build_model_from_config(config)
    except ModelError as error:
        return error


def keys_read(config: dict[str, Any]) -> set[str]:
    """The keys that a family's builder asks for."""
    seen: set[str] = set()

    class Recording(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            seen.add(key)
            return super().get(key, default)

    build_model_from_config(Recording(config))
    return seen - {"text_config"}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 0},
        {"num_attention_heads": 128},
        {"rope_theta": float("nan")},
        {"rope_theta": 0},
        {"dtype": ["float32"]},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [["x"]]},
        {"architectures": [7]},
        {"model_type": 7},
        {"rope_scaling": []},
        {"rope_scaling": "linear"},
        {"rope_scaling": [1]},
        {"rope_scaling": {"rope_type": []}},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 1e5}, "max_position_embeddings": 10**6},
        {"rope_scaling": {"rope_type": "linear", "factor": "2"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 0, "high_freq_factor": 0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": float("nan")}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4}, "rope_theta": 1},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": "no"}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 2**40}},
        {"quantization_config": []},
        {"quantization_config": {"quant_method": []}},
        {"quantization_config": {}},
        {"layer_types": 3},
        {"layer_types": [[], {}]},
        {"head_dim": 3},
        {"head_dim": 2**20},
        {"tie_word_embeddings": "yes"},
        {"max_position_embeddings": 10**15},
        {"rms_norm_eps": 2.0},
        {"eos_token_id": {}},
        {"eos_token_id": 1.5},
    ],
)
def test_values_that_no_model_has_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refusal:
        build_model_from_config({**LLAMA, **changes})
    assert "at or after" not in refusal.value.what, "a range is missing: the last net caught it"
    assert len(str(refusal.value)) < 2000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_experts": 10**9}, "num_experts"),
        ({"num_experts": 4000, "num_hidden_layers": 1000}, "4000000"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ({"mlp_only_layers": 3}, "mlp_only_layers"),
        ({"mlp_only_layers": ["0"]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
    ],
)
def test_experts_have_ranges(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        build_model_from_config({**config_of("Qwen3MoeForCausalLM", **MORE["Qwen3MoeForCausalLM"]), **changes})
