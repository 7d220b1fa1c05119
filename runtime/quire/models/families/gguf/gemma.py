"""What Gemma 2 and 3 share in GGUF files. Source of what they leave out: the graphs of llama.cpp."""

from __future__ import annotations

from quire.models.families.gguf.usual import ATTENTION, LAYERS, MLP, WHOLE
from quire.weights.formats.gguf.architectures import Config
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

SANDWICH_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
GEMMA_NAMES = NameTable(LAYERS, WHOLE, {**ATTENTION, **MLP, **SANDWICH_NORMS}, norm_offset=1.0)


def gemma_scalar(values: Hyperparameters, config: Config, *, num_layers_27b: int) -> float:
    """query_pre_attn_scalar, which files may leave out: the 27B size divides by the mean width of a head."""
    scale = values.number("attention.scale", 0.0)
    if scale:
        return scale**-2
    if config["num_hidden_layers"] == num_layers_27b:
        return float(config["hidden_size"] // config["num_attention_heads"])
    return float(config["head_dim"])
