"""GPT-2 in GGUF files."""

from __future__ import annotations

from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

NAMES = NameTable(
    "transformer.h.{}.",
    {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    {
        "attn_norm": "ln_1",
        "ffn_norm": "ln_2",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
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


ARCHITECTURE = GgufArchitecture(_config, {"GPT2LMHeadModel": NAMES})
