"""Text to token ids and back: tokenizers, chat templates, incremental detokenization, a model's generation defaults."""

from __future__ import annotations

from quire.tokenizer.detokenizer import IncrementalDetokenizer
from quire.tokenizer.generation_config import generation_defaults
from quire.tokenizer.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "Tokenizer", "generation_defaults"]
