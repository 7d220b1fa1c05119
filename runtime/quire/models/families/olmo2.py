"""OLMo 2: norms after each block instead of before, q and k normed over all heads at once. Source: arXiv:2501.00656."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks.attention import AttentionSpec, LayerContext, attend, head_sizes, project_qkv
from quire.models.blocks.decoder import DecoderSpec, build_decoder, mlp_axis
from quire.models.blocks.mlp import gated_mlp
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import read_rope, scaled_max_len


def build_olmo2(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-5, high=1.0), round_before_weight=False)
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_act", "silu")
    bias = config.flag("attention_bias", False)
    attention = AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5, qkv_bias=bias)

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        q, k, v = project_qkv(parameters, x, attention)
        q, k = norm(parameters, q, "self_attn.q_norm"), norm(parameters, k, "self_attn.k_norm")
        attended = attend(parameters, (q, k, v), attention, context, rope)
        attended = parameters.linear(attended, "self_attn.o_proj", x.shape[-1], bias=bias)
        x = t.add(x, norm(parameters, attended, "post_attention_layernorm"))
        return t.add(x, norm(parameters, gated_mlp(parameters, x, act), "post_feedforward_layernorm"))

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
