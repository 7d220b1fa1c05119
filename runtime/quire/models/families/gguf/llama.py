"""Llama in GGUF files, as which Mistral and Mixtral are written too."""

from __future__ import annotations

from quire.models.families.gguf.usual import ATTENTION, LAYERS, NORMS, USUAL_NAMES, WHOLE, dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

PERMUTED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}

LLAMA_NAMES = NameTable(LAYERS, WHOLE, USUAL_NAMES.block, permuted=PERMUTED)
MIXTRAL_NAMES = NameTable(
    LAYERS,
    WHOLE,
    {**ATTENTION, **NORMS, "ffn_gate_inp": "block_sparse_moe.gate"},
    permuted=PERMUTED,
    experts={
        f"ffn_{name}_exps": f"block_sparse_moe.experts.{{}}.{weight}"
        for name, weight in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
    },
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    window = values.integer("attention.sliding_window", 0)
    if values.integer("expert_count", 0):
        return {
            **dense_config(values, files, "MixtralForCausalLM", "mixtral"),
            "sliding_window": window or None,
            "num_local_experts": values.integer("expert_count"),
            "num_experts_per_tok": values.integer("expert_used_count"),
        }
    if window:
        return {**dense_config(values, files, "MistralForCausalLM", "mistral"), "sliding_window": window}
    return {
        **dense_config(values, files, "LlamaForCausalLM", "llama"),
        "attention_bias": "blk.0.attn_q.bias" in files.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in files.tensors,
    }


ARCHITECTURE = GgufArchitecture(
    _config,
    {
        "LlamaForCausalLM": LLAMA_NAMES,
        "MistralForCausalLM": LLAMA_NAMES,
        "MixtralForCausalLM": MIXTRAL_NAMES,
    },
)
