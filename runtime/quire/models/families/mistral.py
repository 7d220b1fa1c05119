"""Mistral: Llama's layer with a sliding window on every layer, or none. Source: arXiv:2310.06825."""

from __future__ import annotations

from quire.models.blocks import dense_decoder, pre_norm_layer, read_attention, read_gated_mlp, read_rms_norm
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, scaled_max_len


def build_mistral(config: ConfigReader) -> BuiltModel:
    config.defaults(num_key_value_heads=8)
    norm = read_rms_norm(config)
    attention = read_attention(config, window=config.window(4096))
    layer = pre_norm_layer(norm, attention, read_gated_mlp(config))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
