"""Qwen2 and Qwen2.5 in GGUF files."""

from __future__ import annotations

from quire.models.families.gguf.usual import USUAL_NAMES, dense_config
from quire.weights.formats.gguf.architectures import Config, GgufArchitecture
from quire.weights.formats.gguf.gguf_file import GgufFiles
from quire.weights.formats.gguf.hyperparameters import Hyperparameters


def _config(values: Hyperparameters, files: GgufFiles) -> Config:
    return dense_config(values, files, "Qwen2ForCausalLM", "qwen2")


ARCHITECTURE = GgufArchitecture(_config, {"Qwen2ForCausalLM": USUAL_NAMES})
