"""OLMo 2 in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.usual import ATTENTION, LAYERS, MLP, WHOLE, dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters
from quire.weights.formats.gguf.names import NameTable

NAMES = NameTable(
    LAYERS,
    WHOLE,
    {
        **ATTENTION,
        **MLP,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
)


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    config = dense_config(values, files, "Olmo2ForCausalLM", "olmo2")
    if values.integer("attention.sliding_window", 0):
        raise values.refusal("attention.sliding_window", "OLMo 2 has none; OLMo 3, which is written alike, has")
    return config


ARCHITECTURE = GgufArchitecture(_config, {"Olmo2ForCausalLM": NAMES})
