"""Small whole checkpoints that mutations start from, one of each kind of file that Quire reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from quire.models import build_model
from quire.weights import DummyWeights
from quire.weights.expressions import used_tensors
from tests.byte_model import CHAT_TEMPLATE, CONFIG, EOS, save_byte_model
from tests.gguf_export import add_tokenizer_json, everything, export

Shapes = Mapping[str, tuple[int, ...]]

_FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "head_dim": 8,
        "sliding_window": 8,
        "num_hidden_layers": 2,
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 30.0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 8,
        "num_hidden_layers": 2,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 10000.0,
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}},
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**CONFIG, "head_dim": 8, "num_key_value_heads": 1, "model_type": "gemma3_text"},
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 1,
        "n_positions": 128,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    },
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
    },
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "mlp_bias": False,
        "attention_bias": False,
    },
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8},
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    },
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2"},
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "sliding_window": 8,
        "partial_rotary_factor": 0.5,
        "pad_token_id": 0,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 0,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 8,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 32,
            "mscale": 1.0,
        },
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "mlp_only_layers": [1],
        "num_hidden_layers": 2,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
    },
}


def make_seeds(folder: Path) -> dict[str, Path]:
    """Writes the seeds; returns their folders by name. Those named "config-..." have no weights."""
    seeds = {f"config-{name}": _family(folder / f"config-{name}", values) for name, values in _FAMILIES.items()}
    seeds["plain"] = _plain(folder / "plain")
    seeds["sharded"] = _sharded(folder / "sharded")
    seeds["gptq"] = _gptq(folder / "gptq")
    for kind, make in _TOKENIZERS.items():
        seeds[f"tokenizer-{kind}"] = _with_tokenizer(folder / f"tokenizer-{kind}", make())
    seeds["gguf"] = _gguf(folder / "gguf", seeds["plain"])
    seeds["gguf-sentencepiece"] = _sentencepiece_gguf(folder / "gguf-sentencepiece", seeds["plain"])
    return seeds


def _family(folder: Path, values: Mapping[str, Any]) -> Path:
    save_byte_model(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **values}))
    return folder


def _plain(folder: Path) -> Path:
    save_byte_model(folder)
    save_file(_weights(folder), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").write_text(
        json.dumps(
            {
                "eos_token_id": [EOS, 3],
                "bos_token_id": 1,
                "temperature": 0.7,
                "top_k": 20,
                "top_p": 0.9,
                "min_p": 0.1,
                "repetition_penalty": 1.1,
                "max_new_tokens": 4,
                "do_sample": True,
            }
        )
    )
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|end|>", "lstrip": False}, "pad_token": "<|end|>"})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": "<|end|>",
                "added_tokens_decoder": {
                    "256": {"content": "<|end|>", "special": True},
                    "257": {"content": "<|more|>", "normalized": False},
                },
                "chat_template": [
                    {"name": "default", "template": CHAT_TEMPLATE},
                    {"name": "tool_use", "template": "{{ 1 }}"},
                ],
            }
        )
    )
    return folder


def _sharded(folder: Path) -> Path:
    save_byte_model(folder)
    weights = sorted(_weights(folder).items())
    weight_map = {}
    for number, part in enumerate((weights[::2], weights[1::2]), 1):
        save_file(dict(part), folder / f"model-{number}.safetensors")
        weight_map |= {name: f"model-{number}.safetensors" for name, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages | length }}")
    return folder


def _gptq(folder: Path) -> Path:
    """Two of the matrices in GPTQ's integers."""
    save_byte_model(folder)
    weights = _weights(folder)
    for module in ("mlp.up_proj", "self_attn.q_proj"):
        outputs, inputs = weights.pop(f"model.layers.0.{module}.weight").shape
        stored = {
            "qweight": np.full((inputs // 8, outputs), 0x12345678, np.int32),
            "qzeros": np.full((2, outputs // 8), 0x77777777, np.int32),
            "scales": np.full((2, outputs), 0.01, np.float16),
            "g_idx": np.arange(inputs, dtype=np.int32) // 8,
        }
        weights |= {f"model.layers.0.{module}.{suffix}": array for suffix, array in stored.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps(
            {
                **CONFIG,
                "quantization_config": {
                    "quant_method": "gptq",
                    "bits": 4,
                    "group_size": 8,
                    "sym": False,
                    "desc_act": False,
                    "dynamic": {},
                    "checkpoint_format": "gptq",
                },
            }
        )
    )
    return folder


def _weights(folder: Path) -> dict[str, np.ndarray]:
    graph = build_model(folder).graph
    random = DummyWeights(graph, dtype="float32")
    return {
        tensor.name: np.array(random.read(weight))
        for part in graph.parts()
        for weight in part.graph.weights.values()
        for tensor in used_tensors(weight.source, {})
    }  # type: ignore[arg-type]


def _with_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    save_byte_model(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(_letters("##"), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("a", 1), ("b", 2))
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([(token, -float(index)) for token, index in _letters("▁").items()], 0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def _byte_fallback() -> Tokenizer:
    vocab = {
        token: index
        for index, token in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab"])
    }
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="a $A", special_tokens=[("a", 257)])
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True)])
    return tokenizer


def _letters(prefix: str) -> dict[str, int]:
    letters = [chr(code) for code in range(97, 123)]
    return {token: index for index, token in enumerate(["<unk>", *letters, *(prefix + letter for letter in letters)])}


_TOKENIZERS: Mapping[str, Callable[[], Tokenizer]] = {
    "word_piece": _word_piece,
    "unigram": _unigram,
    "byte_fallback": _byte_fallback,
}


def _gguf(folder: Path, plain: Path) -> Path:
    folder.mkdir()
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    source = _copy_of(
        plain, folder.parent / "gguf-source", {**settings, "pad_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    )
    export(source, folder / "model.gguf", everything("Q8_0"), lambda writer: add_tokenizer_json(writer, source))
    return folder


def _sentencepiece_gguf(folder: Path, plain: Path) -> Path:
    folder.mkdir()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "ab"]

    def add_tokenizer(writer: Any) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_types([2, 3, 3, *[6] * 256, 1])
        writer.add_token_scores([-float(index) for index in range(len(tokens))])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    export(plain, folder / "model.gguf", everything("F16"), add_tokenizer)
    return folder


def _copy_of(plain: Path, folder: Path, settings: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
