"""From where a checkpoint lies to its tensors, whatever the file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.location import is_gguf
from quire.weights.quantized_formats import opener_of
from quire.weights.safetensors_file import SafetensorsCheckpoint


def open_checkpoint(path: Path) -> CheckpointFiles:
    """The tensors of a folder of safetensors files, or of a GGUF file.

    A folder's are quantized where its config.json has a quantization_config, a file's where it stores them so.

    Raises ModelError for files that are missing or damaged, and for a quantized format that is not known.
    """
    if is_gguf(path):
        return GgufCheckpoint(path)
    files = SafetensorsCheckpoint(path)
    config = _quantization_config(path / "config.json")
    return files if config is None else opener_of(config)(path, config, files)


def _quantization_config(config_file: Path) -> dict[str, Any] | None:
    if not config_file.exists():
        return None
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{config_file} cannot be read", because=str(error)) from error
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found if isinstance(found, dict) else None
