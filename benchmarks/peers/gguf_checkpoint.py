"""Writes a safetensors checkpoint as a bfloat16 GGUF file without a tokenizer, for peers that read GGUF.

Knows the llama and qwen3 families: their tensor names, the row order in which GGUF holds llama's q and k, and
llama3's frequency factors. Runs in the peer's environment, which has numpy and `gguf`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

FAMILIES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_bf16_gguf(folder: Path, out: Path) -> None:
    """The checkpoint in `folder` as `out`; matrices bfloat16, vectors float32. ValueError for another family."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = config["model_type"]
    if family not in FAMILIES:
        raise ValueError(f"{family} checkpoints are not converted; known: {', '.join(FAMILIES)}")
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[FAMILIES[family]])
    _add_config(writer, config)
    if (factors := _llama3_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    num_heads = config["num_attention_heads"]
    for name, bits in _tensors(folder):
        if config.get("tie_word_embeddings") and name == "lm_head.weight":
            continue
        if family == "llama" and ".q_proj." in name:
            bits = _interleaved(bits, num_heads)
        if family == "llama" and ".k_proj." in name:
            bits = _interleaved(bits, config.get("num_key_value_heads", num_heads))
        if bits.ndim == 1:
            writer.add_tensor(_gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(_gguf_name(name), bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_config(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads", config["num_attention_heads"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters, whichever of the two spellings the configuration has."""
    return {
        "rope_theta": config.get("rope_theta", 10000.0),
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }


def _llama3_factors(config: dict[str, Any]) -> np.ndarray | None:
    """What each rotary frequency is divided by under llama3 scaling; None without it."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rotary scaling {kind} is not converted")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] / wavelengths
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # share of the frequency that is not scaled down
    return (1 / ((1 - kept) / rope["factor"] + kept)).astype(np.float32)


def _interleaved(bits: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of each head reordered so that the two halves that rotary pairs become neighbours."""
    rows, inputs = bits.shape
    halves = bits.reshape(num_heads, 2, rows // num_heads // 2, inputs)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, inputs))


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None or match[2] not in NAMES:
        raise ValueError(f"tensor {name} has no place in a GGUF file of this family")
    return f"blk.{match[1]}.{NAMES[match[2]]}.{match[3]}"


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, bfloat16 bits) of every tensor, mapped, not read."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        data = np.memmap(path, np.uint8, "r", offset=8 + header_bytes)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"tensor {name} is {entry['dtype']}; bfloat16 checkpoints are converted")
            start, end = entry["data_offsets"]
            yield name, data[start:end].view(np.uint16).reshape(entry["shape"])
