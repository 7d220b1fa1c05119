"""Qwen2 and Qwen2.5: Llama's layer with biases on q, k and v. Source: arXiv:2407.10671."""

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
from quire.models.config.windows import qwen_windows


def build_qwen2(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0))
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_act", "silu")
    attention = AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5, qkv_bias=True)

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        x = t.add(x, self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope))
        return t.add(x, gated_mlp(parameters, norm(parameters, x, "post_attention_layernorm"), act))

    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=qwen_windows(config),
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size")),
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))
