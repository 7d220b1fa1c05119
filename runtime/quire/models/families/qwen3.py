"""Qwen3: Llama's layer with each head of q and k normed before rotary. Source: arXiv:2505.09388."""

from __future__ import annotations

from quire.models.blocks import dense_decoder, pre_norm_layer, read_attention, read_gated_mlp, read_rms_norm
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, qwen_windows, scaled_max_len


def build_qwen3(config: ConfigReader) -> BuiltModel:
    config.defaults(head_dim=128)
    norm, bias = read_rms_norm(config), config.flag("attention_bias", False)
    attention = read_attention(config, qkv_bias=bias, output_bias=bias, head_norm=norm)
    layer = pre_norm_layer(norm, attention.with_windows(qwen_windows(config)), read_gated_mlp(config))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
