"""Mixtral: Mistral's layer with experts in place of the MLP. Source: arXiv:2401.04088."""

from __future__ import annotations

from quire.models.blocks import (
    ExpertNames,
    SparseMlp,
    dense_decoder,
    pre_norm_layer,
    read_attention,
    read_expert_counts,
    read_rms_norm,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, scaled_max_len

NAMES = ExpertNames("block_sparse_moe", gate="w1", up="w3", down="w2")


def build_mixtral(config: ConfigReader) -> BuiltModel:
    config.defaults(num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=1_000_000.0)
    norm, attention = read_rms_norm(config), read_attention(config, window=config.window())
    num_experts, per_token = read_expert_counts(config, "num_local_experts", 8, per_token=2)
    size, act = config.integer("intermediate_size"), config.activation("hidden_act", "silu")
    experts = SparseMlp(num_experts, per_token, size, act, normalize=True, names=NAMES)
    layer = pre_norm_layer(norm, attention, experts)
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
