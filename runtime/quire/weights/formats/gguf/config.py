"""The metadata of a GGUF file in the words of a config.json, so that the families' builders run unchanged.

Source: the GGUF specification, the key names of the `gguf` package, and for what files leave out (Gemma's attention
scale, Qwen3-MoE's normalized routing) the graphs of llama.cpp, which wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.special_tokens import end_token_ids, token_id

Config = dict[str, Any]

_SAMPLING_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
"""The sizes that divide scores by the mean width of a head instead of its own."""


@dataclass(frozen=True, slots=True)
class GgufConfig:
    """What a file says of its model.

    Attributes:
        config: as in config.json. generation: as in generation_config.json.
        notes: what of the metadata is not used, for the log.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    notes: tuple[str, ...]


def gguf_config(files: GgufFiles) -> GgufConfig:
    """The configuration of a file. Raises ModelError for what is missing or not implemented."""
    architecture = files.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{files.path}: general.architecture={architecture!r} not supported",
            because=f"supported architectures of GGUF files are {', '.join(sorted(_ARCHITECTURES))}",
            hint="the file of the language model" if architecture == "clip" else "another model",
        )
    values = Hyperparameters(files.metadata, architecture, str(files.path))
    config = {**_ARCHITECTURES[architecture](values, files), **_rest(values, files)}
    unread = values.finish()
    notes = (f"not used of the file's metadata: {', '.join(unread)}",) if unread else ()
    return GgufConfig(config, generation_config(files.metadata), notes)


def generation_config(metadata: Mapping[str, Any]) -> Config:
    """Ends of texts and, where the file names them, sampling values, as in generation_config.json."""
    found = {
        ours: metadata[f"general.sampling.{theirs}"]
        for theirs, ours in _SAMPLING_KEYS.items()
        if f"general.sampling.{theirs}" in metadata
    }
    return {**found, "eos_token_id": end_token_ids(metadata)}


def _rest(values: Hyperparameters, files: GgufFiles) -> Config:
    """What all architectures share."""
    values.raw("vocab_size")  # the rows of the embedding are what counts
    embedding = files.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(
            f"{files.path} has no tensor token_embd.weight",
            because="every model has embeddings",
            hint="a file with the whole model",
        )
    ids = {
        f"{ours}_token_id": token_id(files.metadata, theirs)
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in files.tensors,
        "torch_dtype": _dtype(files),
        **ids,
    }


def _dtype(files: GgufFiles) -> str:
    """The dtype of most floating-point matrices; bfloat16 for models in integers, which rarely say where they began."""
    counts = {"F32": 0, "F16": 0, "BF16": 0}
    for tensor in files.tensors.values():
        if len(tensor.shape) > 1:
            if tensor.kind.name not in counts:
                return "bfloat16"
            counts[tensor.kind.name] += 1
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[max(counts, key=lambda name: counts[name])]


def _decoder(values: Hyperparameters, files: GgufFiles, architecture: str, model_type: str) -> Config:
    """A decoder with RMS norms, rotary and grouped queries in the names that most families share."""
    heads, hidden_size = values.integer("attention.head_count", low=1), values.integer("embedding_length", low=1)
    head_dim = values.integer("attention.key_length", hidden_size // heads)
    if values.integer("attention.value_length", head_dim) != head_dim:
        raise values.refusal("attention.value_length", f"keys have {head_dim} dimensions, and values as many")
    rotated = values.integer("rope.dimension_count", head_dim)
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden_size,
        "num_hidden_layers": values.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": values.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": values.integer("context_length"),
        "rms_norm_eps": values.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": values.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(values, files),
    }
    if rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim
    return config


def _dense(values: Hyperparameters, files: GgufFiles, architecture: str, model_type: str) -> Config:
    return {
        **_decoder(values, files, architecture, model_type),
        "intermediate_size": values.integer("feed_forward_length"),
    }


def _rope_scaling(values: Hyperparameters, files: GgufFiles) -> Config | None:
    kind = values.raw("rope.scaling.type")
    factor = values.number("rope.scaling.factor", values.number("rope.scale_linear", 0.0))
    original_max_len = values.integer("rope.scaling.original_context_length", 0)
    attention_factor = values.number("rope.scaling.attn_factor", 1.0)
    values.raw("rope.scaling.finetuned")
    if "rope_factors_long.weight" in files.tensors or kind == "longrope":
        return {"rope_type": "longrope"}
    if "rope_freqs.weight" in files.tensors:
        if kind not in (None, "none") and factor not in (0.0, 1.0):
            raise values.refusal("rope.scaling.type", "the file has a tensor rope_freqs besides")
        if files.tensors["rope_freqs.weight"].kind.name != "F32":
            raise values.refusal("rope.scaling.type", "the factors in rope_freqs are not stored as F32")
        factors = files.blocks("rope_freqs.weight").view(np.float32)
        return {"rope_type": "factors", "factors": factors.tolist()}
    if kind is None:
        kind = "linear" if factor > 1.0 else "none"
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise values.refusal("rope.scaling.type", "types that are read are none, linear and yarn")
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original_max_len or None,
        "beta_fast": values.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": values.number("rope.scaling.yarn_beta_slow", 1.0),
    }
    if attention_factor != 1.0:
        scaling["attention_factor"] = attention_factor * (0.1 * float(np.log(factor)) + 1.0)
    return scaling


def _llama(values: Hyperparameters, files: GgufFiles) -> Config:
    """Also Mistral and Mixtral, which are written as llama."""
    window = values.integer("attention.sliding_window", 0)
    if values.integer("expert_count", 0):
        return {
            **_dense(values, files, "MixtralForCausalLM", "mixtral"),
            "sliding_window": window or None,
            "num_local_experts": values.integer("expert_count"),
            "num_experts_per_tok": values.integer("expert_used_count"),
        }
    if window:
        return {**_dense(values, files, "MistralForCausalLM", "mistral"), "sliding_window": window}
    return {
        **_dense(values, files, "LlamaForCausalLM", "llama"),
        "attention_bias": "blk.0.attn_q.bias" in files.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in files.tensors,
    }


def _qwen2(values: Hyperparameters, files: GgufFiles) -> Config:
    return _dense(values, files, "Qwen2ForCausalLM", "qwen2")


def _qwen3(values: Hyperparameters, files: GgufFiles) -> Config:
    return {
        **_dense(values, files, "Qwen3ForCausalLM", "qwen3"),
        "attention_bias": "blk.0.attn_q.bias" in files.tensors,
    }


def _qwen3_moe(values: Hyperparameters, files: GgufFiles) -> Config:
    config = _decoder(values, files, "Qwen3MoeForCausalLM", "qwen3_moe")
    normalized = values.raw("expert_weights_norm")
    return {
        **config,
        "intermediate_size": values.integer("feed_forward_length", 0),
        "moe_intermediate_size": values.integer("expert_feed_forward_length"),
        "num_experts": values.integer("expert_count"),
        "num_experts_per_tok": values.integer("expert_used_count"),
        "norm_topk_prob": True if normalized is None else bool(normalized),
        "mlp_only_layers": [
            layer for layer in range(config["num_hidden_layers"]) if f"blk.{layer}.ffn_gate.weight" in files.tensors
        ],
    }


def _gemma2(values: Hyperparameters, files: GgufFiles) -> Config:
    config = _dense(values, files, "Gemma2ForCausalLM", "gemma2")
    return {
        **config,
        "query_pre_attn_scalar": _gemma_scalar(values, config, "gemma2"),
        "attn_logit_softcapping": values.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": values.number("final_logit_softcapping", 30.0),
        "sliding_window": values.integer("attention.sliding_window", 4096),
    }


def _gemma3(values: Hyperparameters, files: GgufFiles) -> Config:
    config = _dense(values, files, "Gemma3ForCausalLM", "gemma3_text")
    pattern = values.raw("attention.sliding_window_pattern")
    config |= {
        "query_pre_attn_scalar": _gemma_scalar(values, config, "gemma3"),
        "final_logit_softcapping": values.number("final_logit_softcapping", 0.0) or None,
        "rope_local_base_freq": values.number("rope.freq_base_swa", 10000.0),
        "sliding_window": values.integer("attention.sliding_window"),
    }
    if isinstance(pattern, np.ndarray):
        kinds = ["sliding_attention" if sliding else "full_attention" for sliding in pattern.tolist()]
        return {**config, "layer_types": kinds}
    return {**config, "sliding_window_pattern": values.integer("attention.sliding_window_pattern", 6, low=1)}


def _gemma_scalar(values: Hyperparameters, config: Config, architecture: str) -> float:
    scale = values.number("attention.scale", 0.0)
    if scale:
        return scale**-2
    if config["num_hidden_layers"] == _GEMMA_27B_LAYERS[architecture]:
        return float(config["hidden_size"] // config["num_attention_heads"])
    return float(config["head_dim"])


def _olmo2(values: Hyperparameters, files: GgufFiles) -> Config:
    config = _dense(values, files, "Olmo2ForCausalLM", "olmo2")
    if values.integer("attention.sliding_window", 0):
        raise values.refusal("attention.sliding_window", "OLMo 2 has none; OLMo 3, which is written alike, has")
    return config


def _phi3(values: Hyperparameters, files: GgufFiles) -> Config:
    return {
        **_dense(values, files, "Phi3ForCausalLM", "phi3"),
        "sliding_window": values.integer("attention.sliding_window", 0) or None,
    }


def _gpt2(values: Hyperparameters, files: GgufFiles) -> Config:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": values.integer("embedding_length"),
        "n_head": values.integer("attention.head_count"),
        "n_layer": values.integer("block_count"),
        "n_positions": values.integer("context_length"),
        "n_inner": values.integer("feed_forward_length"),
        "layer_norm_epsilon": values.number("attention.layer_norm_epsilon"),
    }


def _gpt_neox(values: Hyperparameters, files: GgufFiles) -> Config:
    heads, hidden_size = values.integer("attention.head_count", low=1), values.integer("embedding_length", low=1)
    parallel = values.raw("use_parallel_residual")
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": hidden_size,
        "num_attention_heads": heads,
        "num_hidden_layers": values.integer("block_count"),
        "intermediate_size": values.integer("feed_forward_length"),
        "max_position_embeddings": values.integer("context_length"),
        "layer_norm_eps": values.number("attention.layer_norm_epsilon"),
        "rotary_emb_base": values.number("rope.freq_base", 10000.0),
        "rotary_pct": values.integer("rope.dimension_count", hidden_size // heads) / (hidden_size // heads),
        "rope_scaling": _rope_scaling(values, files),
        "use_parallel_residual": True if parallel is None else bool(parallel),
        "attention_bias": "blk.0.attn_qkv.bias" in files.tensors,
    }


_ARCHITECTURES: Mapping[str, Callable[[Hyperparameters, GgufFiles], Config]] = MappingProxyType(
    {
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "gpt2": _gpt2,
        "gptneox": _gpt_neox,
        "llama": _llama,
        "olmo2": _olmo2,
        "phi3": _phi3,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "qwen3moe": _qwen3_moe,
    }
)
"""`general.architecture` -> how its configuration is read."""
