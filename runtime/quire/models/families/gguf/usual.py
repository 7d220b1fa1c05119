"""What most architectures share in GGUF files: names of tensors, and a decoder with rotary and RMS norms."""

from __future__ import annotations

import numpy as np

from quire.weights.formats.gguf.architectures import Config
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
LAYERS = "model.layers.{}."
USUAL_NAMES = NameTable(LAYERS, WHOLE, {**ATTENTION, **MLP, **NORMS})


def decoder_config(values: Hyperparameters, files: GgufFiles, architecture: str, model_type: str) -> Config:
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
        "rope_scaling": rope_scaling(values, files),
    }
    if rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim
    return config


def dense_config(values: Hyperparameters, files: GgufFiles, architecture: str, model_type: str) -> Config:
    """The same with a gated MLP in every layer."""
    return {
        **decoder_config(values, files, architecture, model_type),
        "intermediate_size": values.integer("feed_forward_length"),
    }


def rope_scaling(values: Hyperparameters, files: GgufFiles) -> Config | None:
    """A config's rope_scaling. Raises ModelError for types that are not read."""
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
