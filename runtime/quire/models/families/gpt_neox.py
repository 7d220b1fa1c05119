"""GPT-NeoX and Pythia: attention and MLP side by side, partial rotary, q, k and v interleaved per head.

Source: arXiv:2204.06745.
"""

from __future__ import annotations

from quire.graph.ir import Value
from quire.graph.shapes import Dim
from quire.models.blocks import (
    DecoderNames,
    LayerNorm,
    LayerParameters,
    SelfAttention,
    dense_decoder,
    equal_head_sizes,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, read_rope, scaled_max_len

NAMES = DecoderNames(
    prefixes=("gpt_neox.",),
    embed="embed_in.weight",
    norm="final_layer_norm",
    heads=("embed_out.weight", "lm_head.weight"),
)


def build_gpt_neox(config: ConfigReader) -> BuiltModel:
    config.spelled(rope_theta="rotary_emb_base", partial_rotary_factor="rotary_pct")
    config.defaults(rotary_pct=0.25)
    sizes = equal_head_sizes(config)
    norm = LayerNorm(config.number("layer_norm_eps", 1e-5, high=1.0))
    act = config.activation("hidden_act", "gelu")
    bias = config.flag("attention_bias", True)
    parallel = config.flag("use_parallel_residual", True)
    mlp_size = config.integer("intermediate_size")
    attention = SelfAttention(sizes, read_rope(config, sizes.head_dim))

    def layer(parameters: LayerParameters, x: Value) -> Value:
        t = parameters.tracer
        normed = norm(parameters, x, "input_layernorm")
        q, k, v = (
            _interleaved(parameters, normed, attention, name, rows, bias)
            for name, rows in attention.rows(parameters).items()
        )
        attended = attention.attend(parameters, (q, k, v))
        after = t.add(x, parameters.linear(attended, "attention.dense", x.shape[-1], bias=bias))
        normed = norm(parameters, x if parallel else after, "post_attention_layernorm")
        hidden = parameters.linear(normed, "mlp.dense_h_to_4h", parameters.axis("mlp", mlp_size), bias=True)
        hidden = t.activation(hidden, act=act)
        return t.add(after, parameters.linear(hidden, "mlp.dense_4h_to_h", x.shape[-1], bias=True))

    return dense_decoder(config, layer, norm, scaled_max_len(config, attention.rope), names=NAMES)


def _interleaved(
    parameters: LayerParameters, x: Value, attention: SelfAttention, name: str, rows: Dim, bias: bool
) -> Value:
    """x through q, k or v of a matrix whose rows are [heads, 3, head_dim]."""
    index, in_features = "qkv".index(name), x.shape[-1]
    (heads, _), head_dim = attention.axes(parameters), attention.sizes.head_dim
    stored, size = "attention.query_key_value", heads * head_dim
    weight = parameters.weight(
        f"attention.{name}.weight",
        (rows, in_features),
        stored=f"{stored}.weight",
        view=(
            ("reshape", (size * 3, in_features)),
            ("reshape", (heads, 3, head_dim, in_features)),
            ("index", 1, index),
            ("reshape", (size, in_features)),
        ),
    )
    vector = (
        parameters.weight(
            f"attention.{name}.bias",
            (rows,),
            stored=f"{stored}.bias",
            view=(
                ("reshape", (size * 3,)),
                ("reshape", (heads, 3, head_dim)),
                ("index", 1, index),
                ("reshape", (size,)),
            ),
        )
        if bias
        else None
    )
    return parameters.tracer.linear(x, weight, vector)
