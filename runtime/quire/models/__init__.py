"""Model families as graph builders: config.json -> `ModelSpec`."""

from __future__ import annotations

from quire.models.registry import ARCHITECTURES
from quire.models.spec import ModelSpec, build_model, build_model_from_config, check_architecture
from quire.models.stored_head import differing_head

__all__ = [
    "ARCHITECTURES",
    "ModelSpec",
    "build_model",
    "build_model_from_config",
    "check_architecture",
    "differing_head",
]
