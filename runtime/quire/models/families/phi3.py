"""Phi-3: Llama's layer with q, k, v in one stored matrix, gate and up in another. Source: arXiv:2404.14219."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.graph.shapes import Dim
from quire.models.blocks.attention import HEADS, KV_HEADS, AttentionSpec, LayerContext, attend, head_sizes
from quire.models.blocks.decoder import DecoderSpec, build_decoder, mlp_axis
from quire.models.blocks.mlp import MLP
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import read_rope


def build_phi3(config: ConfigReader) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-5, high=1.0))
    rope = read_rope(config, head_dim)
    if rope.scaling != "default":
        raise config.refusal(
            "rope_scaling",
            "Phi-3 is published with the rope types default and longrope; "
            "longrope, which looks at the sequence's length, is not implemented",
        )
    act = config.activation("hidden_act", "silu")
    attention = AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5)
    window = config.window()

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        normed = norm(parameters, x, "input_layernorm")
        sizes = {"q_proj": HEADS * head_dim, "k_proj": KV_HEADS * head_dim, "v_proj": KV_HEADS * head_dim}
        q, k, v = _sliced_linears(parameters, normed, "self_attn", "qkv_proj", sizes)
        out = attend(parameters, (q, k, v), attention, context, rope)
        x = t.add(x, parameters.linear(out, "self_attn.o_proj", x.shape[-1]))
        normed = norm(parameters, x, "post_attention_layernorm")
        gate, up = _sliced_linears(parameters, normed, "mlp", "gate_up_proj", {"gate_proj": MLP, "up_proj": MLP})
        return t.add(x, parameters.linear(t.gated_activation(gate, up, act=act), "mlp.down_proj", x.shape[-1]))

    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(window,) * config.layers(),
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size")),
    )
    return BuiltModel(build_decoder(spec, layer), config.integer("max_position_embeddings"))


def _sliced_linears(parameters: Parameters, x: Value, block: str, stored: str, sizes: dict[str, Dim]) -> list[Value]:
    """x through consecutive ranges of rows of one stored matrix."""
    in_features = x.shape[-1]
    total = sum(sizes.values(), Dim.of(0))
    start, results = Dim.of(0), []
    for name, size in sizes.items():
        view = (("reshape", (total, in_features)), ("slice", 0, start, start + size))
        weight = parameters.weight(
            f"{block}.{name}.weight", (size, in_features), stored=f"{block}.{stored}.weight", view=view
        )
        results.append(parameters.tracer.linear(x, weight))
        start = start + size
    return results
