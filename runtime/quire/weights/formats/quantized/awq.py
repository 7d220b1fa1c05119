"""AWQ checkpoints of version "gemm": what AutoAWQ and GPTQModel write.

Of a linear layer with K inputs, N outputs and G groups of inputs: `qweight` int32 [K, N / 8] and `qzeros` int32
[G, N / 8] hold eight outputs in a word, in the order 0 2 4 6 1 3 5 7; `scales` [G, N]. Layers that were left alone
have a plain `weight`. Paper: arXiv:2306.00978.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.weights.formats.quantized.bit_packing import unpack_awq
from quire.weights.formats.quantized.grouped_integers import GroupedIntegers, scheme_of
from quire.weights.formats.quantized.quantized_safetensors import (
    FLOAT_DTYPES,
    QuantizedSafetensors,
    StoredMatrix,
    StoredModule,
    modules_with,
)
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint

BITS = 4

_WORDS_OF_EIGHTS = np.uint32(0x88888888)


def open_awq(folder: Path, config: Mapping[str, Any], files: SafetensorsCheckpoint) -> QuantizedSafetensors:
    """An AWQ checkpoint. Raises ModelError for a variant that is not read, and by name for layers that do not fit.

    Args:
        config: the quantization_config of config.json.
    """
    version = str(config.get("version") or config.get("format") or "gemm").lower()
    if version != "gemm":
        raise _refused(folder, f"version {version!r}", "the layout of version gemm is read")
    bits = config.get("bits", config.get("w_bit", BITS))
    group_size = config.get("group_size", config.get("q_group_size", 128))
    if bits != BITS:
        raise _refused(folder, f"{bits} bits", "version gemm has 4")
    if type(group_size) is not int or group_size == 0 or group_size < -1:
        raise _refused(folder, f"group_size={group_size!r}", "it is a number of inputs, or -1 for all of them")
    always_zeros = config.get("zero_point", True) is not False
    return QuantizedSafetensors(
        files,
        {
            f"{module.name}.weight": _matrix(module, max(group_size, 0), always_zeros)
            for module in modules_with(files, "qweight")
        },
    )


def _refused(folder: Path, what: str, because: str) -> ModelError:
    return ModelError(
        f"{folder}: AWQ with {what} is not supported",
        because=because,
        hint="another quantization of the model, or the original weights with --quantization",
    )


def _matrix(module: StoredModule, group_size: int, always_zeros: bool) -> StoredMatrix:
    inputs, words = module.shape("qweight", [np.int32])
    size = group_size or inputs
    if inputs == 0 or inputs % size:
        raise module.wrong(f"groups of {size} do not divide its {inputs} inputs")
    module.expect("scales", FLOAT_DTYPES, (inputs // size, words * 8))
    module.expect("qzeros", [np.int32], (inputs // size, words))
    has_zeros = always_zeros or bool(np.any(module.tensor("qzeros").view(np.uint32) != _WORDS_OF_EIGHTS))
    return StoredMatrix(
        (words * 8, inputs),
        module.names("qweight", "qzeros", "scales"),
        lambda: _read(module, group_size),
        scheme_of(BITS, group_size, inputs, has_zeros),
        module.dtype("scales"),
    )


def _read(module: StoredModule, group_size: int) -> GroupedIntegers:
    scales = np.ascontiguousarray(module.tensor("scales").T, np.float32)
    return GroupedIntegers(
        unpack_awq(module.tensor("qweight")).view(np.int8),
        scales,
        unpack_awq(module.tensor("qzeros")).astype(np.float32),
        group_size,
    )
