"""GGUF files: parser, tensor blocks, names and configuration in transformers' words."""

from __future__ import annotations

from quire.weights.gguf.gguf_file import GgufFiles

__all__ = ["GgufFiles"]
