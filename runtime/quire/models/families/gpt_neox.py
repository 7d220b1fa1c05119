"""GPT-NeoX and Pythia: attention and MLP side by side, partial rotary, q, k and v interleaved per head.

Source: arXiv:2204.06745.
"""

from __future__ import annotations

from quire.graph.ir import Value
from quire.graph.shapes import Dim
from quire.models.blocks.attention import HEADS, KV_HEADS, AttentionSpec, LayerContext, attend
from quire.models.blocks.decoder import DecoderSpec, build_decoder, mlp_axis
from quire.models.blocks.mlp import MLP
from quire.models.blocks.norm import LayerNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import LONGEST_HEAD, ConfigReader
from quire.models.config.rope import read_rope, scaled_max_len


def build_gpt_neox(config: ConfigReader) -> BuiltModel:
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden_size % num_heads:
        raise config.refusal("num_attention_heads", f"it must divide hidden_size={hidden_size}")
    head_dim = hidden_size // num_heads
    if head_dim > LONGEST_HEAD:
        raise config.refusal("num_attention_heads", f"heads of {head_dim} dimensions; at most {LONGEST_HEAD} are read")
    norm = LayerNorm(config.number("layer_norm_eps", 1e-5, high=1.0))
    act = config.activation("hidden_act", "gelu")
    rope = read_rope(config, head_dim, theta_key="rotary_emb_base", partial_key="rotary_pct", default_partial=0.25)
    bias = config.flag("attention_bias", True)
    parallel = config.flag("use_parallel_residual", True)
    attention = AttentionSpec(num_heads, num_heads, head_dim, head_dim**-0.5)

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        normed = norm(parameters, x, "input_layernorm")
        q, k, v = (
            _interleaved(parameters, normed, name, index, axis, head_dim, bias)
            for index, (name, axis) in enumerate((("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)))
        )
        attended = attend(parameters, (q, k, v), attention, context, rope)
        after = t.add(x, parameters.linear(attended, "attention.dense", x.shape[-1], bias=bias))
        normed = norm(parameters, x if parallel else after, "post_attention_layernorm")
        hidden = t.activation(parameters.linear(normed, "mlp.dense_h_to_4h", MLP, bias=True), act=act)
        return t.add(after, parameters.linear(hidden, "mlp.dense_4h_to_h", x.shape[-1], bias=True))

    spec = DecoderSpec(
        hidden_size=hidden_size,
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(0,) * config.layers(),
        tied=config.flag("tie_word_embeddings", False),
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size")),
        prefixes=("gpt_neox.",),
        embed_name="embed_in.weight",
        norm_name="final_layer_norm",
        head_names=("embed_out.weight", "lm_head.weight"),
    )
    return BuiltModel(build_decoder(spec, layer), scaled_max_len(config, rope))


def _interleaved(
    parameters: Parameters, x: Value, name: str, index: int, axis: Dim, head_dim: int, bias: bool
) -> Value:
    """x through q, k or v (index 0, 1, 2) of a matrix whose rows are [heads, 3, head_dim]."""
    in_features = x.shape[-1]
    stored, size = "attention.query_key_value", HEADS * head_dim
    weight = parameters.weight(
        f"attention.{name}.weight",
        (axis * head_dim, in_features),
        stored=f"{stored}.weight",
        view=(
            ("reshape", (size * 3, in_features)),
            ("reshape", (HEADS, 3, head_dim, in_features)),
            ("index", 1, index),
            ("reshape", (size, in_features)),
        ),
    )
    vector = (
        parameters.weight(
            f"attention.{name}.bias",
            (axis * head_dim,),
            stored=f"{stored}.bias",
            view=(
                ("reshape", (size * 3,)),
                ("reshape", (HEADS, 3, head_dim)),
                ("index", 1, index),
                ("reshape", (size,)),
            ),
        )
        if bias
        else None
    )
    return parameters.tracer.linear(x, weight, vector)
