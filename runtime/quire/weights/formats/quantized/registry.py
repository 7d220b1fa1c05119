"""Formats of safetensors checkpoints whose matrices are integers: which reader opens what config.json names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.weights.checkpoint_files import CheckpointFiles
from quire.weights.formats.quantized.awq import open_awq
from quire.weights.formats.quantized.compressed_tensors import open_compressed_tensors
from quire.weights.formats.quantized.gptq import open_gptq
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint

QuantizationConfig = Mapping[str, Any]
"""`quantization_config` of a config.json."""

Opener = Callable[[Path, QuantizationConfig, SafetensorsCheckpoint], CheckpointFiles]
"""opener(folder, quantization_config, files): the files' tensors with quantized matrices in their neutral form."""

OPENERS: dict[str, Opener] = {"awq": open_awq, "compressed-tensors": open_compressed_tensors, "gptq": open_gptq}
"""`quant_method` -> opener."""


def opener_of(config: QuantizationConfig) -> Opener:
    """The opener of a `quantization_config`. Raises ModelError when its method is not one of `OPENERS`."""
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in OPENERS:
        raise ModelError(
            f"config.json: quantization_config with quant_method={method!r:.100} not supported",
            because=f"the formats that can be read are {', '.join(sorted(OPENERS)) or 'none'}",
            hint="the original weights, with --quantization to quantize them as they load",
        )
    return OPENERS[method]
