"""Gemma 2: norms before and after each block, softcaps, every other layer sliding. Source: arXiv:2408.00118."""

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


def build_gemma2(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config, head_dim=256, kv_heads=4)
    num_layers = config.layers()
    hidden_size = config.integer("hidden_size")
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0), weight_offset=1.0, round_before_weight=False)
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_activation", "gelu_pytorch_tanh")
    bias = config.flag("attention_bias", False)
    attention = AttentionSpec(
        num_heads,
        num_kv_heads,
        head_dim,
        config.number("query_pre_attn_scalar", 256, low=1e-6) ** -0.5,
        qkv_bias=bias,
        output_bias=bias,
        softcap=config.optional_number("attn_logit_softcapping", 50.0) or 0.0,
    )
    alternating = ["full_attention" if index % 2 else "sliding_attention" for index in range(num_layers)]

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        attended = self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope)
        x = t.add(x, norm(parameters, attended, "post_attention_layernorm"))
        out = gated_mlp(parameters, norm(parameters, x, "pre_feedforward_layernorm"), act)
        return t.add(x, norm(parameters, out, "post_feedforward_layernorm"))

    spec = DecoderSpec(
        hidden_size=hidden_size,
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=config.layer_windows(num_layers, config.window(4096), alternating),
        tied=config.flag("tie_word_embeddings", True),
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size")),
        embed_scale=hidden_size**0.5,
        logit_softcap=config.optional_number("final_logit_softcapping", 30.0) or 0.0,
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))
