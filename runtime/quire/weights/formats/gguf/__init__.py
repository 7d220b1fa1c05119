"""GGUF files: parser, tensor blocks, names and configuration in transformers' words."""

from __future__ import annotations

from quire.weights.formats.gguf.config import GgufConfig, generation_config, gguf_config
from quire.weights.formats.gguf.gguf_file import GgufFiles, open_gguf
from quire.weights.formats.gguf.location import is_gguf
from quire.weights.formats.gguf.special_tokens import end_token_ids, named_token_ids

__all__ = [
    "GgufConfig",
    "GgufFiles",
    "end_token_ids",
    "generation_config",
    "gguf_config",
    "is_gguf",
    "named_token_ids",
    "open_gguf",
]
