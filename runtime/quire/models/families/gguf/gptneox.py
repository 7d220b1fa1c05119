"""GPT-NeoX and Pythia in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.usual import rope_scaling
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

NAMES = NameTable(
    "gpt_neox.layers.{}.",
    {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    interleaved=("attn_qkv",),
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
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
        "rope_scaling": rope_scaling(values, files),
        "use_parallel_residual": True if parallel is None else bool(parallel),
        "attention_bias": "blk.0.attn_qkv.bias" in files.tensors,
    }


ARCHITECTURE = GgufArchitecture(_config, {"GPTNeoXForCausalLM": NAMES})
