"""Llama: pre-norm, grouped-query attention with rotary, gated MLP. Source: arXiv:2302.13971, Llama 3.1 model card."""

from __future__ import annotations

from quire.models.blocks import dense_decoder, pre_norm_layer, read_attention, read_gated_mlp, read_rms_norm
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, scaled_max_len


def build_llama(config: ConfigReader) -> BuiltModel:
    norm, bias = read_rms_norm(config), config.flag("attention_bias", False)
    attention = read_attention(config, qkv_bias=bias, output_bias=bias)
    layer = pre_norm_layer(norm, attention, read_gated_mlp(config, bias=config.flag("mlp_bias", False)))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
