"""The built-in demo model: a small Qwen3 checkpoint in the Hugging Face format, trained on this repository's text."""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo_model_path"]


def demo_model_path() -> Path:
    """Folder of the demo model: config.json, model.safetensors (bf16), tokenizer and chat template."""
    return Path(__file__).resolve().parent
