"""Checkpoints in the formats of compressed-tensors whose weights are integers: what LLM Compressor writes.

Of a linear layer with K inputs, N outputs and G groups of inputs:
"pack-quantized": `weight_packed` int32 [N, ceil(K * bits / 32)] packs q + 2**(bits - 1) along inputs, `weight_shape`
[2] is (N, K), `weight_zero_point` int32 [ceil(N * bits / 32), G] packs outputs, and `weight_g_idx` [K] is the group of
each input where activations ordered them. "int-quantized" and "naive-quantized": `weight` int8 [N, K] is q.
Always: `weight_scale` [N, G], [N, 1] per output or [1] for the matrix; a `weight_zero_point` may be int8 like it.
Source: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quire.weights.formats.quantized.bit_packing import unpack_columns, unpack_rows
from quire.weights.formats.quantized.compressed_groups import CompressedGroup, group_of_module, read_groups
from quire.weights.formats.quantized.gptq import SCATTERED, ZEROS_OF_8_BITS
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

ACTIVATION_TENSORS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
CACHE_TENSORS = ("q_scale", "q_zero_point", "k_scale", "k_zero_point", "v_scale", "v_zero_point")

logger = logging.getLogger("quire")


def open_compressed_tensors(
    folder: Path, config: Mapping[str, Any], files: SafetensorsCheckpoint
) -> QuantizedSafetensors:
    """A compressed-tensors checkpoint. Raises ModelError for formats that are not read, and by name for bad layers.

    Args:
        config: the quantization_config of config.json.
    """
    groups = read_groups(folder, config)
    matrices = {}
    for module in modules_with(files, "weight_scale"):
        matrices[f"{module.name}.weight"] = _matrix(module, group_of_module(module, groups))
    for module in modules_with(files, "weight_packed"):
        module.shape("weight_scale", FLOAT_DTYPES)
    unused = _unused(files)
    _announce_activations(folder, groups, config, unused)
    return QuantizedSafetensors(files, matrices, unused)


def _unused(files: SafetensorsCheckpoint) -> set[str]:
    return {name for name in files.names if name.rpartition(".")[2] in (*ACTIVATION_TENSORS, *CACHE_TENSORS)}


def _announce_activations(
    folder: Path, groups: Sequence[CompressedGroup], config: Mapping[str, Any], unused: set[str]
) -> None:
    """Scales that calibration fixed are left aside: said once, so that nobody takes the result for bit-equal."""
    static = [group.name for group in groups if group.static_activations]
    if static or any(name.endswith(ACTIVATION_TENSORS) for name in unused):
        logger.warning(
            "%s: activations are not rounded with the checkpoint's fixed scales (input_scale and the like): "
            "kernels scale each row as it comes, with the same bits or more",
            folder,
        )
    if config.get("kv_cache_scheme") or any(name.endswith(CACHE_TENSORS) for name in unused):
        logger.warning(
            "%s: the checkpoint's kv_cache_scheme and its scales are not used: the KV cache has the dtype "
            "of --kv-cache-dtype",
            folder,
        )


def _matrix(module: StoredModule, group: CompressedGroup) -> StoredMatrix:
    packed = module.has("weight_packed")
    outputs, inputs = _packed_shape(module, group.bits) if packed else module.shape("weight", [np.int8])
    group_size, num_groups = _groups(module, group, outputs, inputs)
    order: np.ndarray | None = np.arange(num_groups)
    if module.has("weight_g_idx") and np.all(module.tensor("weight_g_idx") >= 0):
        module.expect("weight_g_idx", [np.int32, np.int64], (inputs,))
        order = contiguous_groups(module.tensor("weight_g_idx"), group_size, module, num_groups)
    has_zeros = _check_zeros(module, group, outputs, num_groups)
    scheme = None if order is None else scheme_of(group.bits, group_size, inputs, has_zeros)
    return StoredMatrix(
        (outputs, inputs),
        module.names(
            "weight_packed" if packed else "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"
        ),
        lambda: _read(module, group.bits, (outputs, inputs), group_size, order),
        scheme,
        module.dtype("weight_scale"),
        "" if scheme else SCATTERED if order is None else ZEROS_OF_8_BITS,
    )


def _packed_shape(module: StoredModule, bits: int) -> tuple[int, int]:
    module.expect("weight_shape", [np.int64, np.int32], (2,))
    outputs, inputs = (int(size) for size in module.tensor("weight_shape"))
    module.expect("weight_packed", [np.int32], (outputs, math.ceil(inputs * bits / 32)))
    return outputs, inputs


def _groups(module: StoredModule, group: CompressedGroup, outputs: int, inputs: int) -> tuple[int, int]:
    """Inputs of a group (0 = all) and the number of groups."""
    if group.strategy == "tensor":
        entry = module.files.entry(f"{module.name}.weight_scale")
        module.expect("weight_scale", FLOAT_DTYPES, (1,) * len(entry.shape))
        return 0, 1
    if group.strategy == "channel":
        module.expect("weight_scale", FLOAT_DTYPES, (outputs, 1))
        return 0, 1
    if inputs % group.group_size:
        raise module.wrong(f"groups of {group.group_size} do not divide its {inputs} inputs")
    num_groups = inputs // group.group_size
    module.expect("weight_scale", FLOAT_DTYPES, (outputs, num_groups))
    return (group.group_size if num_groups > 1 else 0), num_groups


def _check_zeros(module: StoredModule, group: CompressedGroup, outputs: int, num_groups: int) -> bool:
    """Whether there are zero points other than the middle; symmetric layers may hold zeros that say so."""
    name = "weight_zero_point"
    if not module.has(name):
        if not group.symmetric:
            raise module.wrong(f"there is no {module.name}.{name}, and config_groups.{group.name} is not symmetric")
        return False
    if module.dtype(name) == np.int32:
        module.expect(name, [np.int32], (math.ceil(outputs * group.bits / 32), num_groups))
    else:
        module.expect(name, [np.int8], module.files.entry(f"{module.name}.weight_scale").shape)
    return not group.symmetric or bool(np.any(_zeros(module, group.bits, outputs)))


def _zeros(module: StoredModule, bits: int, outputs: int) -> np.ndarray:
    """int8 [N, G], around 0."""
    zeros = module.tensor("weight_zero_point")
    if zeros.dtype == np.int32:
        return (unpack_columns(zeros, bits)[:, :outputs].T - np.uint8(1 << (bits - 1))).view(np.int8)
    return np.broadcast_to(zeros.reshape(1, 1), (outputs, 1)) if zeros.size == 1 else zeros


def _read(
    module: StoredModule, bits: int, shape: tuple[int, int], group_size: int, order: np.ndarray | None
) -> GroupedIntegers:
    outputs, inputs = shape
    middle = 0 if bits == 8 else 8
    if module.has("weight_packed"):
        values = unpack_rows(module.tensor("weight_packed"), bits)[:, :inputs]
        values = (values ^ 128 if bits == 8 else values).view(np.int8)
    else:
        values = module.tensor("weight")
        values = values if bits == 8 else values + np.int8(middle)
    scales = module.tensor("weight_scale").astype(np.float32)
    scales = np.broadcast_to(scales.reshape(1, 1), (outputs, 1)) if scales.size == 1 else scales
    zeros = np.full(scales.shape, middle, np.float32)
    if module.has("weight_zero_point"):
        zeros += _zeros(module, bits, outputs)
    if order is None:
        return GroupedIntegers(values, scales, zeros, group_size, module.tensor("weight_g_idx"))
    return GroupedIntegers(values, scales[:, order], zeros[:, order], group_size)
