"""Qwen3 in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.usual import USUAL_NAMES, dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    return {
        **dense_config(values, files, "Qwen3ForCausalLM", "qwen3"),
        "attention_bias": "blk.0.attn_q.bias" in files.tensors,
    }


ARCHITECTURE = GgufArchitecture(_config, {"Qwen3ForCausalLM": USUAL_NAMES})
