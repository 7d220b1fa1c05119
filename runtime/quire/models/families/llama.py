"""Llama: pre-norm, grouped-query attention with rotary, gated MLP. Source: arXiv:2302.13971, Llama 3.1 model card."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks.attention import AttentionSpec, LayerContext, head_sizes, self_attention
from quire.models.blocks.decoder import DecoderSpec, build_decoder, mlp_axis
from quire.models.blocks.mlp import gated_mlp
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import read_rope, scaled_max_len


def build_llama(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0))
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    attention = AttentionSpec(
        num_heads, num_kv_heads, head_dim, head_dim**-0.5, qkv_bias=attention_bias, output_bias=attention_bias
    )

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        x = t.add(x, self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope))
        return t.add(x, gated_mlp(parameters, norm(parameters, x, "post_attention_layernorm"), act, bias=mlp_bias))

    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(0,) * config.layers(),
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size")),
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))
