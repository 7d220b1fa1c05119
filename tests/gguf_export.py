"""Writes checkpoints of transformers as GGUF files, with the `gguf` package's writer, names and quantizers.

The changes on the way in are those of llama.cpp's converter: rows of q and k reordered for rotary in pairs (llama),
1 added to norms (gemma), matrices turned (gpt2), q, k and v apart (gptneox), experts stacked, factors for llama3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quire.weights.formats.safetensors.checkpoint import SafetensorsCheckpoint

ARCHITECTURE = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "olmo2": "olmo2",
}
FLOAT16_OFFSETS = {
    "Q4_0": (0,),
    "Q5_0": (0,),
    "Q8_0": (0,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where blocks hold scales."""

Choose = Callable[[str, np.ndarray], gguf.GGMLQuantizationType]


def everything(kind: str) -> Choose:
    """Matrices in one type, but float16 where rows do not divide into its blocks; the rest in float32."""
    chosen = gguf.GGMLQuantizationType[kind]

    def choose(name: str, array: np.ndarray) -> gguf.GGMLQuantizationType:
        if array.ndim < 2:
            return gguf.GGMLQuantizationType.F32
        fits = array.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0] == 0
        return chosen if fits else gguf.GGMLQuantizationType.F16

    return choose


def export(
    folder: Path,
    path: Path,
    choose: Choose = everything("F32"),
    add_metadata: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """The checkpoint in `folder` as a GGUF file."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURE[config["model_type"]]
    writer = gguf.GGUFWriter(path, architecture)
    add_hyperparameters(writer, architecture, config)
    add_metadata(writer)
    for name, array in stored_tensors(folder, architecture, config).items():
        kind = choose(name, array)
        array = np.ascontiguousarray(array, np.float32)
        writer.add_tensor(name, stored_data(name, array, kind), raw_dtype=kind)
    write(writer)
    return path


def add_tokenizer_json(writer: gguf.GGUFWriter, folder: Path) -> None:
    """The byte-level tokenizer of a folder: as GGUF has them, and whole, since its way of cutting has no name there."""
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    content, config = json.loads(text), json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = {token["id"]: token for token in content["added_tokens"]}
    by_id = {index: token for token, index in content["model"]["vocab"].items()}
    by_id |= {index: token["content"] for index, token in added.items()}
    types = {index: 3 if token["special"] else 4 for index, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id[index] for index in range(len(by_id))])
    writer.add_token_types([types.get(index, 1) for index in range(len(by_id))])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_string("tokenizer.huggingface.json", text)
    ids = {token: index for index, token in by_id.items()}
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_pad_token_id(ids[config["pad_token"]])
    writer.add_chat_template(config["chat_template"])


def stored_data(name: str, array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The array in a type; K types, which the package cannot quantize into, get other numbers of the same spread."""
    if kind == gguf.GGMLQuantizationType.F32:
        return array
    if not kind.name.endswith("_K"):
        return gguf.quants.quantize(array, kind)
    inputs = array.shape[-1]
    rows = random_blocks(kind, array.size // inputs, inputs, seed=len(name), spread=float(array.std()))
    return rows.reshape(*array.shape[:-1], -1)


def random_blocks(
    kind: gguf.GGMLQuantizationType, rows: int, inputs: int, *, seed: int = 0, spread: float | None = None
) -> np.ndarray:
    """uint8 [rows, bytes of a row]: bytes at random, scales of ordinary sizes and both signs.

    With `spread` the numbers have about that standard deviation.
    """
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * inputs // size, num_bytes), dtype=np.uint8)
    halves = [blocks[:, offset : offset + 2] for offset in FLOAT16_OFFSETS[kind.name]]
    scales = rng.normal(size=(len(halves), len(blocks), 1))
    for half, scale in zip(halves, scales, strict=True):
        half[...] = scale.astype("<f2").view(np.uint8)
    if spread is not None:
        factor = spread / float(gguf.quants.dequantize(blocks, kind).std())
        for half, scale in zip(halves, scales, strict=True):
            half[...] = (scale * factor).astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_hyperparameters(writer: gguf.GGUFWriter, architecture: str, config: Mapping[str, Any]) -> None:
    def first(*names: str, default: Any = None) -> Any:
        return next((config[name] for name in names if config.get(name) is not None), default)

    hidden_size, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    head_dim = first("head_dim", default=hidden_size // heads)
    writer.add_context_length(first("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(hidden_size)
    writer.add_block_count(first("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(first("intermediate_size", "n_inner", default=4 * hidden_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(first("num_key_value_heads", default=heads))
    if architecture in ("gpt2", "gptneox"):
        writer.add_layer_norm_eps(first("layer_norm_epsilon", "layer_norm_eps"))
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture == "gptneox":
        writer.add_parallel_residual(config["use_parallel_residual"])
    add_rope(writer, architecture, config, head_dim)
    window = config.get("sliding_window")
    if window and (architecture in ("gemma2", "gemma3", "phi3") or config["model_type"] in ("mistral", "mixtral")):
        writer.add_sliding_window(window)
    if "gemma" in architecture:
        writer.add_attention_scale(config["query_pre_attn_scalar"] ** -0.5)
        if config.get("attn_logit_softcapping"):
            writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        if config.get("final_logit_softcapping"):
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if architecture == "gemma3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    experts = first("num_local_experts", "num_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_rope(writer: gguf.GGUFWriter, architecture: str, config: Mapping[str, Any], head_dim: int) -> None:
    if architecture == "gpt2":
        return
    rope = config.get("rope_parameters") or {"rope_type": "default", "rope_theta": config["rope_theta"]}
    if "full_attention" in rope:
        writer.add_float32(f"{architecture}.rope.freq_base_swa", rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    partial = rope.get("partial_rotary_factor") or 1.0
    writer.add_rope_dimension_count(int(head_dim * partial))
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def stored_tensors(folder: Path, architecture: str, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as a GGUF file has them: its names, and the converter's changes."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    num_layers = config.get("num_hidden_layers") or config["n_layer"]
    names, usual = (gguf.get_tensor_name_map(kind, num_layers) for kind in (arch, gguf.MODEL_ARCH.LLAMA))
    files = SafetensorsCheckpoint(folder)
    published = {name: files.tensor(name).astype(np.float32) for name in files.names}
    if config.get("tie_word_embeddings"):
        published = {name: array for name, array in published.items() if name != "lm_head.weight"}
    stored: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, array in published.items():
        base, kind = name.rsplit(".", 1)
        if match := re.search(r"experts\.(\d+)\.", name):
            merged = names.get_name(base.replace(match[0], "experts."))
            experts.setdefault(f"{merged}.{kind}", {})[int(match[1])] = array
            continue
        theirs = names.get_name(base) or usual.get_name(base)
        assert theirs is not None, name
        stored[f"{theirs}.{kind}"] = changed(theirs, kind, array, architecture, config)
    for name, parts in experts.items():
        stored[name] = np.stack([parts[index] for index in range(len(parts))])
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        stored["rope_freqs.weight"] = llama3_factors(rope, config.get("head_dim") or 16)
    return stored


def changed(name: str, kind: str, array: np.ndarray, architecture: str, config: Mapping[str, Any]) -> np.ndarray:
    if architecture == "llama" and name.endswith(("attn_q", "attn_k")):
        heads = config["num_attention_heads" if name.endswith("attn_q") else "num_key_value_heads"]
        return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    if "gemma" in architecture and name.endswith("norm"):
        return array + 1
    if architecture == "gpt2" and kind == "weight" and re.search(r"attn_qkv|attn_output|ffn_", name) and array.ndim > 1:
        return array.T
    if architecture == "gptneox" and name.endswith("attn_qkv"):
        heads = config["num_attention_heads"]
        return array.reshape(heads, 3, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
    return array


def llama3_factors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """What llama.cpp divides each frequency by; after the rule in Llama 3.1's model card."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    length, factors = rope["original_max_position_embeddings"], []
    for wavelen in 2 * np.pi / frequencies:
        if wavelen < length / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wavelen > length / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (length / wavelen - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
