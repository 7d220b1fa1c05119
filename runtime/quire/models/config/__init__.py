"""A config.json as a model's builder reads it: typed, with ranges, and with nothing ignored."""

from __future__ import annotations

from quire.models.config.reader import ConfigReader
from quire.models.config.rope import LEAST_THETA, read_rope, rope_object, rope_spec, scaled_max_len
from quire.models.config.windows import alternating_windows, qwen_windows

__all__ = [
    "LEAST_THETA",
    "ConfigReader",
    "alternating_windows",
    "qwen_windows",
    "read_rope",
    "rope_object",
    "rope_spec",
    "scaled_max_len",
]
