"""Qwen3-MoE in GGUF files. That routing is normalized, files leave out: source, the graph of llama.cpp."""

from __future__ import annotations

from quire.models.families.gguf.usual import LAYERS, USUAL_NAMES, WHOLE, decoder_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

NAMES = NameTable(
    LAYERS,
    WHOLE,
    {**USUAL_NAMES.block, "ffn_gate_inp": "mlp.gate"},
    experts={f"ffn_{name}_exps": f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")},
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    config = decoder_config(values, files, "Qwen3MoeForCausalLM", "qwen3_moe")
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


ARCHITECTURE = GgufArchitecture(_config, {"Qwen3MoeForCausalLM": NAMES})
