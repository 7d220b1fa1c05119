"""Gemma 3, text, in GGUF files."""

from __future__ import annotations

import numpy as np

from quire.models.families.gguf.gemma import GEMMA_NAMES, gemma_scalar
from quire.models.families.gguf.usual import dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    config = dense_config(values, files, "Gemma3ForCausalLM", "gemma3_text")
    pattern = values.raw("attention.sliding_window_pattern")
    config |= {
        "query_pre_attn_scalar": gemma_scalar(values, config, num_layers_27b=62),
        "final_logit_softcapping": values.number("final_logit_softcapping", 0.0) or None,
        "rope_local_base_freq": values.number("rope.freq_base_swa", 10000.0),
        "sliding_window": values.integer("attention.sliding_window"),
    }
    if isinstance(pattern, np.ndarray):
        kinds = ["sliding_attention" if sliding else "full_attention" for sliding in pattern.tolist()]
        return {**config, "layer_types": kinds}
    return {**config, "sliding_window_pattern": values.integer("attention.sliding_window_pattern", 6, low=1)}


ARCHITECTURE = GgufArchitecture(_config, {"Gemma3ForCausalLM": GEMMA_NAMES})
