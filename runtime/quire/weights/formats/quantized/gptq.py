"""GPTQ checkpoints: what AutoGPTQ and GPTQModel write.

Of a linear layer with K inputs, N outputs and G groups of inputs: `qweight` int32 [K * bits / 32, N] packs inputs,
`qzeros` int32 [G, N * bits / 32] packs outputs, `scales` [G, N], and `g_idx` int32 [K], the group of each input.
Format "gptq" (v1) stores each word of zero points less one in every field (0x11111111 for 4 bits), borrows included;
"gptq_v2" stores them as they are. Paper: arXiv:2210.17323.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quire.errors import ModelError
from quire.weights.formats.quantized.bit_packing import unpack_columns, unpack_rows
from quire.weights.formats.quantized.grouped_integers import GroupedIntegers, scheme_of
from quire.weights.formats.quantized.quantized_safetensors import (
    FLOAT_DTYPES,
    QuantizedSafetensors,
    StoredMatrix,
    StoredModule,
    contiguous_groups,
    modules_with,
)
from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint

FORMATS = ("gptq", "gptq_v2")

SCATTERED = "act-order (desc_act) scatters the inputs of a group, and schemes have consecutive ones"
ZEROS_OF_8_BITS = "their 8-bit integers have zero points, and the schemes of 8 bits have none"

_ONES = {4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What quantization_config says of every layer; `varies`: some layers have bits and groups of their own."""

    bits: int
    group_size: int
    symmetric: bool
    zeros_less_one: bool
    varies: bool


def open_gptq(folder: Path, config: Mapping[str, Any], files: SafetensorsCheckpoint) -> QuantizedSafetensors:
    """A GPTQ checkpoint. Raises ModelError for a variant that is not read, and by name for layers that do not fit.

    Args:
        config: the quantization_config of config.json.
    """
    layout = _layout(folder, config)
    modules = modules_with(files, "qweight")
    return QuantizedSafetensors(files, {f"{module.name}.weight": _matrix(module, layout) for module in modules})


def _layout(folder: Path, config: Mapping[str, Any]) -> _Layout:
    stored_format = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
    if config.get("is_marlin_format"):
        stored_format = "marlin"
    if stored_format not in FORMATS:
        raise _refused(folder, f"checkpoint_format {stored_format!r}", f"the formats read are {', '.join(FORMATS)}")
    bits, group_size = config.get("bits"), config.get("group_size", 128)
    if type(bits) is not int or bits not in _ONES:
        raise _refused(folder, f"{bits!r} bits", "4 and 8 are read")
    if type(group_size) is not int or group_size == 0 or group_size < -1:
        raise _refused(folder, f"group_size={group_size!r}", "it is a number of inputs, or -1 for all of them")
    if config.get("pack_dtype", "int32") != "int32":
        raise _refused(folder, f"pack_dtype={config['pack_dtype']!r}", "integers are read from words of 32 bits")
    if config.get("adapter"):
        raise _refused(folder, "an adapter", "adapters of low rank are not added to quantized weights")
    return _Layout(
        bits, max(group_size, 0), config.get("sym") is True, stored_format == "gptq", bool(config.get("dynamic"))
    )


def _refused(folder: Path, what: str, because: str) -> ModelError:
    return ModelError(
        f"{folder}: GPTQ with {what} is not supported",
        because=because,
        hint="another quantization of the model, or the original weights with --quantization",
    )


def _matrix(module: StoredModule, layout: _Layout) -> StoredMatrix:
    words, outputs = module.shape("qweight", [np.int32])
    groups, _ = module.shape("scales", FLOAT_DTYPES)
    bits = _bits(module, layout, outputs)
    inputs = words * 32 // bits
    group_size = _group_size(module, layout, inputs, groups)
    module.expect("scales", FLOAT_DTYPES, (groups, outputs))
    module.expect("qzeros", [np.int32], (groups, outputs * bits // 32))
    order: np.ndarray | None = np.arange(groups)
    if module.has("g_idx"):
        module.expect("g_idx", [np.int32], (inputs,))
        order = contiguous_groups(module.tensor("g_idx"), group_size, module, groups)

    symmetric = (layout.symmetric or bits == 8) and _zeros_are_the_middle(module, layout, bits)
    scheme = None if order is None else scheme_of(bits, group_size, inputs, not symmetric)
    return StoredMatrix(
        (outputs, inputs),
        module.names("qweight", "qzeros", "scales", "g_idx"),
        lambda: _read(module, layout, bits, group_size, order),
        scheme,
        module.dtype("scales"),
        "" if scheme else SCATTERED if order is None else ZEROS_OF_8_BITS,
    )


def _bits(module: StoredModule, layout: _Layout, outputs: int) -> int:
    """The layer's own: `dynamic` overrides them by patterns, its tensors' shapes tell them without."""
    _, zero_words = module.shape("qzeros", [np.int32])
    bits = zero_words * 32 // outputs if outputs else 0
    if bits * outputs != zero_words * 32 or bits not in _ONES or (bits != layout.bits and not layout.varies):
        expected = "4 or 8" if layout.varies else layout.bits
        raise module.wrong(f"qweight has {outputs} columns and qzeros {zero_words}, which is not {expected} bits")
    return bits


def _group_size(module: StoredModule, layout: _Layout, inputs: int, groups: int) -> int:
    stated = layout.group_size
    if groups == (-(-inputs // stated) if stated else 1):
        return stated if stated < inputs else 0
    if layout.varies and groups > 0 and inputs % groups == 0:
        return inputs // groups if groups > 1 else 0
    raise module.wrong(
        f"scales are there for {groups} groups of its {inputs} inputs, "
        f"quantization_config has group_size {stated or -1}"
    )


def _zero_words(module: StoredModule, layout: _Layout, bits: int) -> np.ndarray:
    words = module.tensor("qzeros").view(np.uint32)
    return words + np.uint32(_ONES[bits]) if layout.zeros_less_one else words


def _zeros_are_the_middle(module: StoredModule, layout: _Layout, bits: int) -> bool:
    middle = np.uint32(_ONES[bits] << (bits - 1))
    return bool(np.all(_zero_words(module, layout, bits) == middle))


def _read(
    module: StoredModule, layout: _Layout, bits: int, group_size: int, order: np.ndarray | None
) -> GroupedIntegers:
    values = unpack_columns(module.tensor("qweight"), bits)
    zeros = unpack_rows(_zero_words(module, layout, bits), bits).T.astype(np.float32)
    scales = module.tensor("scales").T.astype(np.float32)
    if bits == 8:
        values, zeros = values ^ 128, zeros - np.float32(128)
    group_of = None if order is not None else module.tensor("g_idx")
    if order is not None:
        scales, zeros = scales[:, order], zeros[:, order]
    return GroupedIntegers(
        values.view(np.int8), np.ascontiguousarray(scales), np.ascontiguousarray(zeros), group_size, group_of
    )
