"""Names of tensors: what GGUF calls them -> what transformers does, and what was changed on the way into the file.

Source: the GGUF specification's standardized names and the tables of the `gguf` package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_BLOCK = re.compile(r"blk\.(?P<layer>\d+)\.(?P<name>[a-z_]+)(?:\.(?P<expert>\d+))?\.(?P<kind>weight|bias)")
_OTHER = re.compile(r"(?P<name>[a-z_]+)\.(?P<kind>weight|bias)")

IGNORED = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.attn_rot_embd\.weight")
"""Tensors that are no weights: rotary factors, which the configuration takes up, and stored rotary tables."""


@dataclass(frozen=True, slots=True)
class NameTable:
    """One architecture's names.

    Attributes:
        layers: prefix of layer `i` in transformers, with {} for i.
        whole: GGUF name without ".weight" or ".bias" -> name in transformers without it.
        block: the same inside a layer ("blk.0." and `layers`).
        experts: name of a tensor with all experts -> name of one expert's, with {} for its number.
        permuted: block names whose rows were reordered for rotary in pairs of neighbours, and the number of heads'
            place in the configuration.
        interleaved: block names of q, k and v that are stored one after the other and published per head.
        transposed: block names that are published [in, out].
        norm_offset: what was added to the weights of norms.
    """

    layers: str
    whole: Mapping[str, str]
    block: Mapping[str, str]
    experts: Mapping[str, str] = field(default_factory=dict)
    permuted: Mapping[str, str] = field(default_factory=dict)
    interleaved: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    norm_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's place in both worlds.

    Attributes:
        name: in transformers; of a tensor with all experts the pattern, with {} for the expert's number.
        block_name: GGUF's name inside a layer, "" outside of layers.
        is_experts: the tensor holds all experts.
    """

    name: str
    block_name: str
    is_experts: bool = False


def transformers_name(table: NameTable, stored: str) -> TensorName:
    """The published name; one that the architecture does not have stays as it is."""
    if match := _OTHER.fullmatch(stored):
        whole = table.whole.get(match["name"])
        return TensorName(f"{whole}.{match['kind']}" if whole else stored, "")
    match = _BLOCK.fullmatch(stored)
    if match is None:
        return TensorName(stored, "")
    name, prefix = match["name"], table.layers.format(match["layer"])
    if match["expert"] is not None and f"{name}_exps" in table.experts:  # one file entry per expert, before 2024
        return TensorName(f"{prefix}{table.experts[f'{name}_exps'].format(match['expert'])}.{match['kind']}", name)
    if name in table.experts:
        return TensorName(f"{prefix}{table.experts[name]}.{match['kind']}", name, is_experts=True)
    if name not in table.block or match["expert"] is not None:
        return TensorName(stored, name)
    return TensorName(f"{prefix}{table.block[name]}.{match['kind']}", name)


_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_SANDWICH_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYERS = "model.layers.{}."
_PERMUTED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}

_USUAL = NameTable(_LAYERS, _WHOLE, {**_ATTENTION, **_MLP, **_NORMS})
_LLAMA = NameTable(_LAYERS, _WHOLE, _USUAL.block, permuted=_PERMUTED)
_MIXTRAL = NameTable(
    _LAYERS,
    _WHOLE,
    {**_ATTENTION, **_NORMS, "ffn_gate_inp": "block_sparse_moe.gate"},
    permuted=_PERMUTED,
    experts={
        f"ffn_{name}_exps": f"block_sparse_moe.experts.{{}}.{weight}"
        for name, weight in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
    },
)
_QWEN3_MOE = NameTable(
    _LAYERS,
    _WHOLE,
    {**_USUAL.block, "ffn_gate_inp": "mlp.gate"},
    experts={f"ffn_{name}_exps": f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")},
)
_GEMMA = NameTable(_LAYERS, _WHOLE, {**_ATTENTION, **_MLP, **_SANDWICH_NORMS}, norm_offset=1.0)
_OLMO2 = NameTable(
    _LAYERS,
    _WHOLE,
    {
        **_ATTENTION,
        **_MLP,
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
)
_PHI3 = NameTable(
    _LAYERS,
    _WHOLE,
    {
        **_NORMS,
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
)
_GPT2 = NameTable(
    "transformer.h.{}.",
    {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    {
        "attn_norm": "ln_1",
        "ffn_norm": "ln_2",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
)
_GPT_NEOX = NameTable(
    "gpt_neox.layers.{}.",
    {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "embed_out"},
    {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_qkv": "attention.query_key_value",
        "attn_output": "attention.dense",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    interleaved=("attn_qkv",),
)

NAME_TABLES: Mapping[str, NameTable] = MappingProxyType(
    {
        "GPT2LMHeadModel": _GPT2,
        "GPTNeoXForCausalLM": _GPT_NEOX,
        "Gemma2ForCausalLM": _GEMMA,
        "Gemma3ForCausalLM": _GEMMA,
        "LlamaForCausalLM": _LLAMA,
        "MistralForCausalLM": _LLAMA,
        "MixtralForCausalLM": _MIXTRAL,
        "Olmo2ForCausalLM": _OLMO2,
        "Phi3ForCausalLM": _PHI3,
        "Qwen2ForCausalLM": _USUAL,
        "Qwen3ForCausalLM": _USUAL,
        "Qwen3MoeForCausalLM": _QWEN3_MOE,
    }
)
"""Architecture, as in a config's `architectures`, -> its names in GGUF files."""
