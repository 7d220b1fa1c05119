"""Qwen2 and Qwen2.5: Llama's layer with biases on q, k and v. Source: arXiv:2407.10671."""

from __future__ import annotations

from quire.models.blocks import dense_decoder, pre_norm_layer, read_attention, read_gated_mlp, read_rms_norm
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, qwen_windows, scaled_max_len


def build_qwen2(config: ConfigReader) -> BuiltModel:
    norm = read_rms_norm(config)
    attention = read_attention(config, qkv_bias=True)
    layer = pre_norm_layer(norm, attention.with_windows(qwen_windows(config)), read_gated_mlp(config))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
