"""Tiny random checkpoints in every quantized format that is read, and the same weights in float32 beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.models.checkpoints import SHAPE, SPECIAL_TOKENS, randomize
from tests.quantized_layers import Layer, awq_tensors, gptq_tensors, int8_tensors, of_module, packed_tensors

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SHAPE),
    "qwen3": ("Qwen3", {**SHAPE, "head_dim": 32, "tie_word_embeddings": True}),
    "phi3": ("Phi3", {**SHAPE, "pad_token_id": 0}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **SHAPE,
            "head_dim": 32,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 64,
            "norm_topk_prob": True,
        },
    ),
    "mixtral": ("Mixtral", {**SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


@dataclass(frozen=True)
class Format:
    """A quantized format: how its integers are chosen, how a layer is stored, what config.json says of it."""

    bits: int
    group_size: int
    zeros: bool
    tensors: Callable[[Layer], dict[str, np.ndarray]]
    config: dict[str, Any]
    act_order: bool = False


def _gptq(bits: int = 4, group_size: int = 32, sym: bool = True, v2: bool = False, act_order: bool = False) -> Format:
    return Format(
        bits,
        group_size,
        not sym,
        lambda layer: gptq_tensors(layer, bits, v2=v2),
        {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group_size,
            "sym": sym,
            "desc_act": act_order,
            "checkpoint_format": "gptq_v2" if v2 else "gptq",
            "lm_head": False,
        },
        act_order,
    )


def _compressed(stored_format: str, bits: int, group_size: int, zeros: bool = False) -> Format:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": not zeros,
        "group_size": group_size,
        "strategy": "channel" if group_size == -1 else "group",
        "dynamic": False,
    }
    activations = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations if stored_format == "int-quantized" else None,
    }
    return Format(
        bits,
        group_size,
        zeros,
        (lambda layer: packed_tensors(layer, bits, zeros="packed" if zeros else ""))
        if stored_format == "pack-quantized"
        else (lambda layer: int8_tensors(layer, bits)),
        {
            "quant_method": "compressed-tensors",
            "format": stored_format,
            "ignore": ["lm_head"],
            "config_groups": {"group_0": group},
            "quantization_status": "compressed",
        },
    )


FORMATS: dict[str, Format] = {
    "gptq": _gptq(),
    "gptq_asym": _gptq(sym=False),
    "gptq_v2_channel": _gptq(group_size=-1, v2=True),
    "gptq_int8": _gptq(bits=8),
    "gptq_act_order": _gptq(act_order=True),
    "awq": Format(
        4,
        32,
        True,
        awq_tensors,
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    ),
    "w4a16": _compressed("pack-quantized", 4, 32),
    "w4a16_asym": _compressed("pack-quantized", 4, 32, zeros=True),
    "w8a16": _compressed("pack-quantized", 8, 32),
    "w8a8": _compressed("int-quantized", 8, -1),
}


def rounded(weights: np.ndarray, form: Format) -> Layer:
    """Weights rounded to nearest in the format's groups; with act-order each group's inputs lie anywhere."""
    outputs, inputs = weights.shape
    size = inputs if form.group_size == -1 else form.group_size
    order = np.random.default_rng(inputs).permutation(inputs) if form.act_order else np.arange(inputs)
    group_of = np.empty(inputs, int)
    group_of[order] = np.arange(inputs) // size
    grouped = weights[:, order].reshape(outputs, -1, size)
    top = 2**form.bits - 1
    if form.zeros:
        low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
        scales = ((high - low) / top).astype(np.float16)
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 1, top).astype(int)
    else:
        scales = (np.abs(grouped).max(-1) / (top // 2)).astype(np.float16)
        zeros = np.full(scales.shape, (top + 1) // 2)
    wide = scales.astype(np.float32)[:, group_of]
    q = np.clip(np.rint(weights / wide + zeros[:, group_of]), 0, top).astype(int)
    return Layer(q, scales, zeros, group_of.tolist())


def save_quantized(model_name: str, format_name: str, folder: Path) -> None:
    """Writes folder/quantized, and folder/float32 with the same weights dequantized."""
    prefix, values = MODELS[model_name]
    torch.manual_seed(sum(map(ord, model_name)))
    config = getattr(transformers, f"{prefix}Config")(**{**SPECIAL_TOKENS, **values}, attn_implementation="eager")
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    randomize(model)
    model.save_pretrained(folder / "float32")
    form = FORMATS[format_name]
    quantized: dict[str, np.ndarray] = {}
    dense: dict[str, np.ndarray] = {}
    for name, array in load_file(folder / "float32" / "model.safetensors").items():
        if not re.search(r"(_proj|w[123])\.weight$", name):
            quantized[name] = dense[name] = array
            continue
        layer = rounded(array, form)
        scales, zeros = layer.scales.astype(np.float32)[:, layer.group_of], layer.zeros[:, layer.group_of]
        dense[name] = (layer.q - zeros).astype(np.float32) * scales
        if form.act_order:  # no scheme: read as floats of the scales' dtype
            dense[name] = dense[name].astype(np.float16).astype(np.float32)
        quantized |= of_module(name.removesuffix(".weight"), form.tensors(layer))
    save_file(dense, folder / "float32" / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "float32" / "config.json").read_text())
    (folder / "quantized").mkdir()
    (folder / "quantized" / "config.json").write_text(json.dumps(settings | {"quantization_config": form.config}))
    save_file(quantized, folder / "quantized" / "model.safetensors", metadata={"format": "pt"})
