"""From where a checkpoint lies to its tensors, whatever the file format."""

from __future__ import annotations

from pathlib import Path

from quire.files import file_of, read_json_object, reading
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.formats.gguf.checkpoint import GgufCheckpoint
from quire.weights.formats.gguf.location import is_gguf
from quire.weights.formats.quantized.registry import opener_of
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint


def open_checkpoint(path: Path) -> CheckpointFiles:
    """The tensors of a folder of safetensors files, or of a GGUF file.

    A folder's are quantized where its config.json has a quantization_config, a file's where it stores them so.

    Raises ModelError for files that are missing or damaged, and for a quantized format that is not known.
    """
    with reading(path):
        if is_gguf(path):
            return GgufCheckpoint(path)
        files = SafetensorsCheckpoint(path)
        config = read_json_object(file_of(path, "config.json")).get("quantization_config")
        return opener_of(config)(path, config, files) if isinstance(config, dict) else files
