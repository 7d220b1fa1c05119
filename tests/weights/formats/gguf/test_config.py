"""What the metadata say in the words of a config.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.errors import ModelError
from quire.models import build_model
from quire.weights.formats.gguf import gguf_config, open_gguf
from tests.gguf_export import write

TYPES = [3, 3, 3, 1, 3, 4, 1]
TOKENS = ["<unk>", "<s>", "</s>", "a", "<|im_end|>", "<|eot_id|>", "<|end|>"]


def add_base(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)


def config_of(
    path: Path, architecture: str, *changes: Callable[[gguf.GGUFWriter], None], tensors: tuple[str, ...] = ()
) -> dict[str, Any]:
    writer = gguf.GGUFWriter(path / "x.gguf", architecture)
    add_base(writer)
    for change in changes:
        change(writer)
    for name in ("token_embd.weight", *tensors):
        writer.add_tensor(name, np.ones((11, 64), np.float16))
    write(writer)
    found = gguf_config(open_gguf(path / "x.gguf"))
    return {**found.config, "generation": found.generation, "notes": found.notes}


def test_llama(tmp_path: Path) -> None:
    config = config_of(tmp_path, "llama", lambda w: w.add_rope_freq_base(5e5), tensors=("output.weight",))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["vocab_size"], config["head_dim"], config["tie_word_embeddings"]) == (11, 16, False)
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (5e5, None, "float16")
    assert config["attention_bias"] is False
    assert config["notes"] == ()


def test_llama_with_a_window_is_mistral_and_with_experts_mixtral(tmp_path: Path) -> None:
    assert config_of(tmp_path, "llama", lambda w: w.add_sliding_window(9))["architectures"] == ["MistralForCausalLM"]
    config = config_of(tmp_path, "llama", lambda w: w.add_expert_count(4), lambda w: w.add_expert_used_count(2))
    assert (config["architectures"], config["num_local_experts"], config["num_experts_per_tok"]) == (
        ["MixtralForCausalLM"],
        4,
        2,
    )
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"type": "none"}, None),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"type": "linear", "factor": 1.0}, None),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128},
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        ),
        ({"type": "longrope", "factor": 4.0}, {"rope_type": "longrope"}),
    ],
)
def test_rope_scaling(tmp_path: Path, values: dict[str, Any], expected: dict[str, Any] | None) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        for name, value in values.items():
            add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
            add(f"qwen3.rope.scaling.{name}", value)

    assert config_of(tmp_path, "qwen3", add)["rope_scaling"] == expected


def test_gemmas_scale_of_scores(tmp_path: Path) -> None:
    """Files do not say it: the head's own width, but for the sizes of 46 and 62 layers."""

    def gemma(architecture: str, layers: int) -> float:
        config = config_of(
            tmp_path,
            architecture,
            lambda w: w.add_key_length(32),
            lambda w: w.add_value_length(32),
            lambda w: w.add_uint32(f"{architecture}.block_count", layers),
            lambda w: w.add_sliding_window(9),
        )
        return config["query_pre_attn_scalar"]

    assert (gemma("gemma2", 26), gemma("gemma2", 46), gemma("gemma3", 34), gemma("gemma3", 62)) == (32, 16, 32, 16)


def test_ends_of_texts_and_sampling_values(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(TOKENS)
        writer.add_token_types(TYPES)
        writer.add_eos_token_id(2)
        writer.add_bos_token_id(1)
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)

    config = config_of(tmp_path, "qwen2", add)
    assert config["generation"] == {"temperature": 0.5, "top_k": 20, "eos_token_id": [2, 4, 5]}
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)


def test_sentencepiece_files_need_not_name_their_tokens(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(TOKENS)

    config = config_of(tmp_path, "llama", add)
    assert (config["bos_token_id"], config["generation"]["eos_token_id"]) == (1, [2])


def test_keys_that_nobody_reads_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, "qwen2", lambda w: w.add_uint32("qwen2.colour", 7))
    assert config["notes"] == ("not used of the file's metadata: qwen2.colour",)
    assert build_model(tmp_path / "x.gguf").notes == config["notes"]


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("mamba", lambda w: None, "general.architecture='mamba' not supported.*gemma2"),
        ("llama", lambda w: w.add_logit_scale(0.25), "llama.logit_scale=0.25 not supported"),
        ("qwen2", lambda w: w.add_expert_count(8), "qwen2.expert_count=8 not supported"),
        ("llama", lambda w: w.add_value_length(8), "llama.attention.value_length=8"),
        ("llama", lambda w: w.add_array("llama.attention.head_count_kv", [2, 1]), "differ in it"),
        ("llama", lambda w: w.add_string("llama.context_length", "long"), "an integer is expected"),
        ("olmo2", lambda w: w.add_sliding_window(9), "OLMo 3"),
        ("qwen3moe", lambda w: w.add_expert_count(8), "qwen3moe.expert_feed_forward_length is missing"),
        ("llama", lambda w: (w.add_token_list(TOKENS), w.add_eos_token_id(70)), "eos_token_id=70"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    tmp_path: Path, architecture: str, change: Callable[[gguf.GGUFWriter], None], message: str
) -> None:
    def replacing(writer: gguf.GGUFWriter) -> None:
        fresh = gguf.GGUFWriter(None, architecture)
        change(fresh)
        for key in fresh.kv_data[0].keys() - {"general.architecture"}:
            writer.kv_data[0].pop(key, None)
        change(writer)

    with pytest.raises(ModelError, match=f"(?s){message}"):
        config_of(tmp_path, architecture, replacing)


def test_layers_that_agree_may_be_listed(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "qwen3",
        lambda w: (
            w.kv_data[0].pop("qwen3.attention.head_count_kv"),
            w.add_array("qwen3.attention.head_count_kv", [2, 2]),
        ),
    )
    assert config["num_key_value_heads"] == 2


def test_a_rotary_rule_that_is_not_implemented_is_named_by_the_family(tmp_path: Path) -> None:
    config_of(tmp_path, "phi3", tensors=("rope_factors_long.weight",))
    with pytest.raises(ModelError, match="'longrope' not supported"):
        build_model(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.head_count", 0),
        ("embedding_length", 0),
        ("context_length", 2**62),
        ("block_count", 2**40),
        ("attention.layer_norm_rms_epsilon", float("inf")),
        ("rope.freq_base", float("nan")),
        ("block_count", "two"),
        ("attention.head_count", True),
    ],
)
def test_metadata_have_ranges(tmp_path: Path, key: str, value: Any) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(f"llama.{key}", None)
        add = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, int: writer.add_uint64}
        add[type(value)](f"llama.{key}", value)

    with pytest.raises(ModelError, match=f"{key}={value!r}"):
        config_of(tmp_path, "llama", change)
