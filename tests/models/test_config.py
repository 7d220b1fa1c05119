"""What configs say in older words is understood; what is not implemented is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from quire.errors import ModelError
from quire.models import ARCHITECTURES, build_model, build_model_from_config, check_architecture

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    family = ARCHITECTURES[architecture]
    return {**LLAMA, "architectures": [architecture], "model_type": family.model_types[0], **changes}


GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 131,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 128,
}
GEMMA3 = config_of("Gemma3ForCausalLM", head_dim=16, sliding_window=9)
NESTED_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 12000.0},
}


@pytest.mark.parametrize(
    ("older", "today"),
    [
        ({**LLAMA, "rope_theta": 5e5}, {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (
            {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        ),
        ({**LLAMA, "num_key_value_heads": None, "tie_word_embeddings": False}, {**LLAMA, "num_key_value_heads": 4}),
        (
            config_of("GPTNeoXForCausalLM", rotary_pct=0.5, rotary_emb_base=20000),
            config_of("GPTNeoXForCausalLM", rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 20000.0}),
        ),
        (
            {
                **GEMMA3,
                "rope_theta": 1e6,
                "rope_local_base_freq": 12000.0,
                "sliding_window_pattern": 2,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            {**GEMMA3, "rope_parameters": NESTED_ROPE, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        (
            config_of("Qwen3MoeForCausalLM", head_dim=16, num_experts=4, num_experts_per_tok=2),
            config_of("Qwen3MoeForCausalLM", head_dim=16, num_local_experts=4, num_experts_per_tok=2),
        ),
        (
            config_of("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9, max_window_layers=1),
            config_of(
                "Qwen2ForCausalLM",
                use_sliding_window=True,
                sliding_window=9,
                layer_types=["full_attention", "sliding_attention"],
            ),
        ),
        (
            config_of("Qwen2ForCausalLM", use_sliding_window=False, sliding_window=131072, max_window_layers=1),
            config_of("Qwen2ForCausalLM"),
        ),
    ],
)
def test_older_configs_build_the_same_graph(older: dict[str, Any], today: dict[str, Any]) -> None:
    assert build_model_from_config(older).graph == build_model_from_config(today).graph


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**LLAMA, "architectures": ["FooForCausalLM"]}, "FooForCausalLM"),
        ({**LLAMA, "architectures": None, "model_type": "foo"}, "foo"),
        ({**LLAMA, "model_type": "mistral"}, "mistral"),
        ({**LLAMA, "hidden_act": "mish"}, "mish"),
        ({**LLAMA, "hidden_size": None}, "hidden_size"),
        ({**LLAMA, "hidden_size": "64"}, "hidden_size"),
        ({**LLAMA, "num_hidden_layers": True}, "num_hidden_layers"),
        ({**LLAMA, "num_key_value_heads": 3}, "3 key-value heads"),
        ({**LLAMA, "dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({**LLAMA, "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({**LLAMA, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({**LLAMA, "sliding_window": 9}, "sliding_window"),
        ({**LLAMA, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({**LLAMA, "logit_scale": 0.5, "clip_qkv": 8.0}, "clip_qkv=8.0, logit_scale=0.5"),
        ({**LLAMA, "partial_rotary_factor": 0.0}, "0 rotated dimensions"),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({**LLAMA, "rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
        (
            {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}},
            "rope_scaling",
        ),
        (
            config_of("Phi3ForCausalLM", rope_scaling={"type": "longrope", "short_factor": [1], "long_factor": [2]}),
            "longrope",
        ),
        (config_of("Phi3ForCausalLM", rope_scaling={"type": "linear", "factor": 2.0}), "longrope"),
        (config_of("Qwen2ForCausalLM", layer_types=["full_attention", "sliding_attention"]), "sliding_window"),
        (config_of("Qwen2ForCausalLM", layer_types=["full_attention"]), "layer_types"),
        (config_of("Qwen2ForCausalLM", layer_types=["full_attention", "chunked_attention"]), "chunked_attention"),
        (config_of("Qwen3MoeForCausalLM", use_sliding_window=True, sliding_window=9), "use_sliding_window"),
        (config_of("Gemma2ForCausalLM", use_bidirectional_attention=True), "use_bidirectional_attention"),
        ({**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({**GEMMA3, "rope_parameters": {"rope_theta": 5.0}}, "rope_parameters"),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({**GPT2, "reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        ({**GPT2, "add_cross_attention": True}, "add_cross_attention"),
        ({**GPT2, "n_head": 5}, "n_head"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError) as refusal:
        build_model_from_config(config)
    assert named in str(refusal.value)


def test_nested_refusals_of_a_text_config_are_found() -> None:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**GEMMA3, "final_logit_softcapping": 30.0},
    }
    with pytest.raises(ModelError, match=r"text_config.*final_logit_softcapping"):
        build_model_from_config(config)


def test_the_image_text_config_relies_on_the_class_defaults_and_says_what_is_left_out() -> None:
    spec = build_model_from_config(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "eos_token_id": [1, 106],
            "torch_dtype": "bfloat16",
            "vision_config": {"model_type": "siglip_vision_model"},
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            },
        }
    )
    assert (spec.vocab_size, spec.max_model_len, spec.num_layers) == (262_208, 131_072, 34)
    assert (spec.graph.axes["heads"].size, spec.graph.axes["kv_heads"].size) == (8, 4)
    assert [group.layers for group in spec.graph.kv_groups.values()] == [29, 5]
    assert (spec.eos_token_ids, spec.checkpoint_dtype) == ((1, 106), "bfloat16")
    assert "vision tower" in spec.notes[0]


@pytest.mark.parametrize(
    ("scaling", "max_len"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            128,
        ),
    ],
)
def test_scaling_extends_the_longest_sequence(scaling: dict[str, Any], max_len: int) -> None:
    assert build_model_from_config({**LLAMA, "rope_scaling": scaling}).max_model_len == max_len


def test_groups_share_a_pool_only_when_their_pages_are_equal() -> None:
    def pools(num_layers: int) -> dict[str, tuple[str, int]]:
        config = config_of("Gemma2ForCausalLM", num_hidden_layers=num_layers, sliding_window=9)
        return {
            name: (group.pool, group.layers) for name, group in build_model_from_config(config).graph.kv_groups.items()
        }

    assert pools(4) == {"sliding": ("kv", 2), "full": ("kv", 2)}
    assert pools(3) == {"sliding": ("sliding", 2), "full": ("full", 1)}


def test_end_tokens_come_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "eos_token_id": 7, "bos_token_id": 5}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 7]}))
    spec = build_model(tmp_path)
    assert (spec.eos_token_ids, spec.bos_token_id, spec.pad_token_id) == ((9, 7), 5, None)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_config_that_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        build_model(tmp_path)


def test_equal_layers_have_equal_signatures() -> None:
    graph = build_model_from_config(config_of("Gemma2ForCausalLM", num_hidden_layers=4, sliding_window=9)).graph
    signatures = [layer.signature() for layer in graph.layers]
    assert signatures[0] == signatures[2] != signatures[1] == signatures[3]


def test_what_no_reader_foresaw_is_a_model_error_with_the_place() -> None:
    class Treacherous(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            if key == "hidden_act":
                raise LookupError("out of the blue")
            return super().get(key, default)

    with pytest.raises(ModelError, match=r"config\.json, at or after 'hidden_act'.*\n.*LookupError: out of the blue"):
        build_model_from_config(Treacherous(LLAMA))


def test_unknown_keys_are_named_once_and_harmless_ones_are_not() -> None:
    harmless = {
        "_name_or_path": "x",
        "transformers_version": "5",
        "use_cache": True,
        "attention_dropout": 0.1,
        "bos_token_id": 1,
        "initializer_range": 0.02,
        "auto_map": {},
        "pretraining_tp": 1,
    }
    assert build_model_from_config({**LLAMA, **harmless, "scale_emb": None}).notes == ()
    (note,) = build_model_from_config({**LLAMA, **harmless, "scale_emb": 12, "dim_model_base": 256}).notes
    assert "scale_emb, dim_model_base" in note
    (note,) = build_model_from_config({**LLAMA, **{f"key{number}": 1 for number in range(100_000)}}).notes
    assert note.endswith("and 99980 more")


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_configs_that_transformers_writes_hold_no_unknown_keys(architecture: str) -> None:
    special = {
        "GPT2LMHeadModel": "GPT2Config",
        "Gemma3ForCausalLM": "Gemma3TextConfig",
        "Gemma3ForConditionalGeneration": "Gemma3Config",
    }
    name = special.get(architecture, architecture.replace("ForCausalLM", "Config"))
    written = getattr(transformers, name)().to_dict()
    notes = build_model_from_config({**written, "architectures": [architecture]}).notes
    assert not [note for note in notes if "not known to be harmless" in note]


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (1.0, (1,)),
        ("2", (2,)),
        ([2.0, "3", None], (2, 3)),
        ("</s>", ()),
        (-1, ()),
    ],
)
def test_end_tokens_in_other_spellings(value: Any, ids: tuple[int, ...]) -> None:
    assert build_model_from_config({**LLAMA, "eos_token_id": value}).eos_token_ids == ids


def test_an_end_token_outside_the_vocabulary_is_left_out_and_said() -> None:
    spec = build_model_from_config({**LLAMA, "eos_token_id": [7, 131, 9000]})
    assert spec.eos_token_ids == (7,)
    assert "eos_token_id 131, 9000 ends no text" in spec.notes[0]


def test_the_architecture_is_checked_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    check_architecture(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["FooForCausalLM"]}))
    with pytest.raises(ModelError, match="FooForCausalLM"):
        check_architecture(tmp_path)
