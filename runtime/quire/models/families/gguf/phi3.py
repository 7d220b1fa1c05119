"""Phi-3 in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.usual import LAYERS, NORMS, WHOLE, dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

NAMES = NameTable(
    LAYERS,
    WHOLE,
    {
        **NORMS,
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    return {
        **dense_config(values, files, "Phi3ForCausalLM", "phi3"),
        "sliding_window": values.integer("attention.sliding_window", 0) or None,
    }


ARCHITECTURE = GgufArchitecture(_config, {"Phi3ForCausalLM": NAMES})
