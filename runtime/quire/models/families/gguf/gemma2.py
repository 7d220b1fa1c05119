"""Gemma 2 in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.gemma import GEMMA_NAMES, gemma_scalar
from quire.models.families.gguf.usual import dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    config = dense_config(values, files, "Gemma2ForCausalLM", "gemma2")
    return {
        **config,
        "query_pre_attn_scalar": gemma_scalar(values, config, num_layers_27b=46),
        "attn_logit_softcapping": values.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": values.number("final_logit_softcapping", 30.0),
        "sliding_window": values.integer("attention.sliding_window", 4096),
    }


ARCHITECTURE = GgufArchitecture(_config, {"Gemma2ForCausalLM": GEMMA_NAMES})
