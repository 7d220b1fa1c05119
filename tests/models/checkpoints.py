"""Tiny random checkpoints of every family, made with transformers' own config and model classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

VOCAB = 131
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FOUR_LAYERS = {**SHAPE, "num_hidden_layers": 4}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
YARN_MSCALE_ROPE = {
    **YARN_ROPE,
    "mscale": 1.2,
    "mscale_all_dim": 0.7,
    "beta_fast": 16,
    "beta_slow": 2,
    "truncate": False,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "rope_theta": 500000.0}),
    "llama_biases_tied": (
        "Llama",
        {
            **SHAPE,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "head_dim": 24,
            "hidden_act": "gelu",
        },
    ),
    "llama_llama3": ("Llama", {**SHAPE, "rope_parameters": LLAMA3_ROPE}),
    "llama_linear": ("Llama", {**SHAPE, "rope_parameters": LINEAR_ROPE}),
    "llama_yarn": ("Llama", {**SHAPE, "rope_parameters": YARN_ROPE}),
    "llama_yarn_mscale": ("Llama", {**SHAPE, "rope_parameters": YARN_MSCALE_ROPE}),
    "mistral": ("Mistral", {**SHAPE, "sliding_window": 9}),
    "mistral_full": ("Mistral", {**SHAPE, "sliding_window": None, "head_dim": 32}),
    "qwen2_sliding": ("Qwen2", {**SHAPE, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen2": ("Qwen2", {**SHAPE, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2",
        {
            **FOUR_LAYERS,
            "head_dim": 32,
            "sliding_window": 9,
            "query_pre_attn_scalar": 48,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 7.0,
        },
    ),
    "gemma2_odd": (
        "Gemma2",
        {**SHAPE, "head_dim": 32, "sliding_window": 9, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": (
        "Gemma3",
        {
            **SHAPE,
            "num_hidden_layers": 5,
            "head_dim": 32,
            "sliding_window": 9,
            "query_pre_attn_scalar": 48,
            "sliding_window_pattern": 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "phi3": ("Phi3", {**SHAPE, "partial_rotary_factor": 0.5, "sliding_window": 9, "pad_token_id": 0}),
    "gpt2": ("GPT2", {"vocab_size": VOCAB, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "gpt2_unscaled": (
        "GPT2",
        {
            "vocab_size": VOCAB,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 80,
            "scale_attn_weights": False,
            "activation_function": "relu",
        },
    ),
    "gpt_neox": ("GPTNeoX", {**SHAPE, "rotary_pct": 0.5}),
    "gpt_neox_serial": ("GPTNeoX", {**SHAPE, "use_parallel_residual": False, "attention_bias": False}),
    "olmo2": ("Olmo2", {**SHAPE, "pad_token_id": 0}),
    "mixtral": ("Mixtral", {**SHAPE, "num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral_sliding": ("Mixtral", {**SHAPE, "num_hidden_layers": 2, "num_local_experts": 4, "sliding_window": 9}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **FOUR_LAYERS,
            "head_dim": 32,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 48,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
        },
    ),
    "qwen3_moe_step": (
        "Qwen3Moe",
        {
            **FOUR_LAYERS,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "decoder_sparse_step": 2,
        },
    ),
}
"""Case -> (transformers' class prefix, config). A family's first case is the one that stands for it."""

FIRST_CASES = tuple({prefix: case for case, (prefix, _) in reversed(FAMILIES.items())}.values())[::-1]
"""One case of each family."""

SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}


def make_model(case: str) -> Any:
    """A transformers model with weights large enough for every term of the computation to matter."""
    prefix, values = FAMILIES[case]
    config_class = getattr(transformers, f"{prefix}TextConfig" if prefix == "Gemma3" else f"{prefix}Config")
    suffix = "LMHeadModel" if prefix == "GPT2" else "ForCausalLM"
    torch.manual_seed(sum(map(ord, case)))
    config = config_class(**{**SPECIAL_TOKENS, **values}, attn_implementation="eager")
    model = getattr(transformers, prefix + suffix)(config)
    randomize(model)
    return model.eval()


def randomize(model: Any) -> None:
    """Norms around what they are made with, biases around 0, matrices that keep the scale of what they multiply."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.data.mean()), std=0.3)
            continue
        conv1d = any(part in name for part in ("c_attn", "c_proj", "c_fc"))
        fan_in = parameter.shape[0] if conv1d else parameter.shape[-1]
        torch.nn.init.normal_(parameter, std=1.5 / fan_in**0.5)


def save_checkpoint(case: str, folder: Path) -> None:
    """Writes the checkpoint as `save_pretrained` does, once."""
    make_model(case).save_pretrained(folder)


def full_forward(folder: Path, tokens: list[int]) -> np.ndarray:
    """transformers' float32 logits [T, vocab] for all tokens at once, without a cache."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
