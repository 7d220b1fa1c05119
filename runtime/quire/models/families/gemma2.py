"""Gemma 2: norms before and after each block, softcaps, every other layer sliding. Source: arXiv:2408.00118."""

from __future__ import annotations

from quire.models.blocks import dense_decoder, read_attention, read_gated_mlp, read_rms_norm, sandwich_layer
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, alternating_windows, scaled_max_len


def build_gemma2(config: ConfigReader) -> BuiltModel:
    config.spelled(hidden_act="hidden_activation")
    config.defaults(
        head_dim=256, num_key_value_heads=4, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True
    )
    norm = read_rms_norm(config, weight_offset=1.0, round_before_weight=False)
    bias = config.flag("attention_bias", False)
    attention = read_attention(
        config,
        scale=config.number("query_pre_attn_scalar", 256, low=1e-6) ** -0.5,
        qkv_bias=bias,
        output_bias=bias,
        softcap=config.optional_number("attn_logit_softcapping", 50.0) or 0.0,
    )
    windows = alternating_windows(config, full_every=2)
    return dense_decoder(
        config,
        sandwich_layer(norm, attention.with_windows(windows), read_gated_mlp(config)),
        norm,
        scaled_max_len(config, attention.rope),
        embed_scale=config.integer("hidden_size") ** 0.5,
        logit_softcap=config.optional_number("final_logit_softcapping", 30.0) or 0.0,
    )
