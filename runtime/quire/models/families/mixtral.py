"""Mixtral: Mistral's layer with experts in place of the MLP. Source: arXiv:2401.04088."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks.attention import AttentionSpec, LayerContext, head_sizes, self_attention
from quire.models.blocks.decoder import DecoderSpec, build_decoder, expert_axes
from quire.models.blocks.mlp import ExpertsSpec, expert_counts, sparse_mlp
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import read_rope, scaled_max_len


def build_mixtral(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config, kv_heads=8)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-5, high=1.0))
    rope = read_rope(config, head_dim, default_theta=1_000_000.0)
    attention = AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5)
    window = config.window()
    num_layers = config.layers()
    num_experts, per_token = expert_counts(config, "num_local_experts", 8, per_token=2, num_layers=num_layers)
    experts = ExpertsSpec(
        num_experts,
        per_token,
        config.activation("hidden_act", "silu"),
        normalize=True,
        block="block_sparse_moe",
        gate="w1",
        up="w3",
        down="w2",
    )

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        x = t.add(x, self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope))
        return t.add(x, sparse_mlp(parameters, norm(parameters, x, "post_attention_layernorm"), experts))

    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(window,) * num_layers,
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes=expert_axes(experts.num_experts, config.integer("intermediate_size")),
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))
