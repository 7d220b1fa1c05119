"""Quire: an LLM inference and serving runtime whose core knows nothing about hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire.errors import QuireError
    from quire.llm import LLM
    from quire.outputs import CompletionOutput, RequestOutput
    from quire.sampling_params import SamplingParams

__version__ = "0.1.0"

_HOMES = {
    "LLM": "quire.llm",
    "SamplingParams": "quire.sampling_params",
    "RequestOutput": "quire.outputs",
    "CompletionOutput": "quire.outputs",
    "QuireError": "quire.errors",
}

__all__ = ["LLM", "CompletionOutput", "QuireError", "RequestOutput", "SamplingParams"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import quire` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
