"""Qwen3-MoE: Qwen3's attention, experts in the layers that the config makes sparse. Source: arXiv:2505.09388."""

from __future__ import annotations

from quire.models.blocks import (
    GatedMlp,
    Mixer,
    SparseMlp,
    by_layer,
    dense_decoder,
    pre_norm_layer,
    read_attention,
    read_expert_counts,
    read_rms_norm,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, scaled_max_len


def build_qwen3_moe(config: ConfigReader) -> BuiltModel:
    config.defaults(num_key_value_heads=4)
    norm, bias = read_rms_norm(config), config.flag("attention_bias", False)
    config.raw("sliding_window")  # without use_sliding_window, which is refused, it says nothing
    attention = read_attention(config, qkv_bias=bias, output_bias=bias, head_norm=norm)
    layer = pre_norm_layer(norm, attention, by_layer(_blocks(config)))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))


def _blocks(config: ConfigReader) -> list[Mixer]:
    """The feed-forward block of each layer."""
    num_layers, act = config.layers(), config.activation("hidden_act", "silu")
    count = config.integer("num_local_experts", 128)  # transformers 5 writes it instead of num_experts
    num_experts, per_token = read_expert_counts(config, "num_experts", count, per_token=8)
    size, normalize = config.integer("moe_intermediate_size", 768), config.flag("norm_topk_prob", False)
    experts = SparseMlp(num_experts, per_token, size, act, normalize)
    dense, step = _dense_layers(config), config.integer("decoder_sparse_step", 1)
    is_sparse = [index not in dense and (index + 1) % step == 0 for index in range(num_layers)]
    config.raw("intermediate_size")  # says nothing where all layers are sparse
    if all(is_sparse):
        return [experts] * num_layers
    mlp = GatedMlp(config.integer("intermediate_size"), act)
    return [experts if sparse else mlp for sparse in is_sparse]


def _dense_layers(config: ConfigReader) -> frozenset[int]:
    """`mlp_only_layers`: numbers of layers without experts."""
    layers = config.raw("mlp_only_layers") or []
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise config.refusal("mlp_only_layers", "a list of numbers of layers is expected there")
    return frozenset(layers)
