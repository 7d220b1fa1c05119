"""Tokenizers from the metadata of GGUF files."""

from __future__ import annotations

from quire.tokenizer.gguf.loading import gguf_tokenizer

__all__ = ["gguf_tokenizer"]
