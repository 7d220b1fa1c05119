"""OLMo 2: norms after each block instead of before, q and k normed over all heads at once. Source: arXiv:2501.00656."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks import (
    LayerParameters,
    dense_decoder,
    post_norm_layer,
    read_attention,
    read_gated_mlp,
    read_rms_norm,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, scaled_max_len


def build_olmo2(config: ConfigReader) -> BuiltModel:
    config.defaults(rms_norm_eps=1e-5)
    norm, bias = read_rms_norm(config, round_before_weight=False), config.flag("attention_bias", False)
    attention = read_attention(config, qkv_bias=bias, output_bias=bias)

    def normed_attention(parameters: LayerParameters, x: Value) -> Value:
        q, k, v = attention.project(parameters, x)
        q, k = norm(parameters, q, "self_attn.q_norm"), norm(parameters, k, "self_attn.k_norm")
        return attention.project_back(parameters, attention.attend(parameters, (q, k, v)))

    layer = post_norm_layer(norm, normed_attention, read_gated_mlp(config))
    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope))
