"""Qwen3-MoE: Qwen3's attention, experts in the layers that the config makes sparse. Source: arXiv:2505.09388."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks.attention import AttentionSpec, LayerContext, head_sizes, self_attention
from quire.models.blocks.decoder import DecoderSpec, build_decoder, expert_axes, mlp_axis
from quire.models.blocks.mlp import ExpertsSpec, expert_counts, gated_mlp, sparse_mlp
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import read_rope, scaled_max_len


def build_qwen3_moe(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config, kv_heads=4)
    num_layers = config.layers()
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0))
    rope = read_rope(config, head_dim)
    act = config.activation("hidden_act", "silu")
    bias = config.flag("attention_bias", False)
    config.raw("intermediate_size")  # says nothing where all layers are sparse
    config.raw("sliding_window")  # without use_sliding_window, which is refused, it says nothing
    attention = AttentionSpec(
        num_heads, num_kv_heads, head_dim, head_dim**-0.5, qkv_bias=bias, output_bias=bias, head_norm=norm
    )
    count = config.integer("num_local_experts", 128)  # transformers 5 writes it instead of num_experts
    num_experts, per_token = expert_counts(config, "num_experts", count, per_token=8, num_layers=num_layers)
    experts = ExpertsSpec(num_experts, per_token, act, config.flag("norm_topk_prob", False))
    dense = _dense_layers(config)
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


def _dense_layers(config: ConfigReader) -> frozenset[int]:
    """`mlp_only_layers`: numbers of layers without experts."""
    layers = config.raw("mlp_only_layers") or []
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise config.refusal("mlp_only_layers", "a list of numbers of layers is expected there")
    return frozenset(layers)
