"""Qwen3-MoE: Qwen3's attention, experts in the layers that the config makes sparse. Source: arXiv:2505.09388."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.attention import AttentionSpec, LayerContext, head_sizes, self_attention
from quire.models.config_reader import ConfigReader
from quire.models.decoder import DecoderSpec, build_decoder, expert_axes, mlp_axis
from quire.models.family import BuiltModel
from quire.models.mlp import ExpertsSpec, gated_mlp, sparse_mlp
from quire.models.normalization import RmsNorm
from quire.models.parameters import Parameters
from quire.models.rope_config import read_rope, scaled_max_len


def build_qwen3_moe(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config, kv_heads=4)
    num_layers = config.integer("num_hidden_layers")
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6))
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_act", "silu")
    bias = config.flag("attention_bias", False)
    config.raw("sliding_window")  # without use_sliding_window, which is refused, it says nothing
    attention = AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5,
                              qkv_bias=bias, output_bias=bias, head_norm=norm)
    experts = ExpertsSpec(
        _num_experts(config), config.integer("num_experts_per_tok", 8), act, config.flag("norm_topk_prob", False))
    dense = set(config.raw("mlp_only_layers") or ())
    step = config.integer("decoder_sparse_step", 1)
    sparse = frozenset(index for index in range(num_layers) if index not in dense and (index + 1) % step == 0)

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        x = t.add(x, self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope))
        normed = norm(parameters, x, "post_attention_layernorm")
        if context.index in sparse:
            return t.add(x, sparse_mlp(parameters, normed, experts))
        return t.add(x, gated_mlp(parameters, normed, act))

    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(0,) * num_layers,
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes={
            **(expert_axes(experts.num_experts, config.integer("moe_intermediate_size", 768)) if sparse else {}),
            **(mlp_axis(config.integer("intermediate_size")) if len(sparse) < num_layers else {}),
        },
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))


def _num_experts(config: ConfigReader) -> int:
    """`num_experts`, which transformers 5 writes as `num_local_experts`."""
    return config.integer("num_experts", config.integer("num_local_experts", 128))
