"""GPT-2: learned positions, layer norms, biases, weights stored [in, out]. Source: the GPT-2 report (2019)."""

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
    pre_norm_layer,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader

NAMES = DecoderNames(prefixes=("transformer.", ""), embed="wte.weight", layers="h", norm="ln_f")


def build_gpt2(config: ConfigReader) -> BuiltModel:
    config.spelled(hidden_size="n_embd", num_attention_heads="n_head", num_hidden_layers="n_layer")
    config.defaults(tie_word_embeddings=True)
    sizes = equal_head_sizes(config)
    norm = LayerNorm(config.number("layer_norm_epsilon", 1e-5, high=1.0))
    act = config.activation("activation_function", "gelu_new")
    mlp_size = config.integer("n_inner", 4 * config.integer("hidden_size"))
    attention = SelfAttention(sizes, None, 0.0 if config.flag("scale_attn_weights", True) else 1.0)
    max_len = config.integer("n_positions")

    def attend(parameters: LayerParameters, x: Value) -> Value:
        q, k, v = (
            _projection(parameters, x, name, rows, "attn.c_attn", part, 3)
            for part, (name, rows) in enumerate(attention.rows(parameters).items())
        )
        attended = attention.attend(parameters, (q, k, v))
        return _projection(parameters, attended, "attn.c_proj", x.shape[-1])

    def mlp(parameters: LayerParameters, x: Value) -> Value:
        hidden = _projection(parameters, x, "mlp.c_fc", parameters.axis("mlp", mlp_size))
        hidden = parameters.tracer.activation(hidden, act=act)
        return _projection(parameters, hidden, "mlp.c_proj", x.shape[-1])

    layer = pre_norm_layer(norm, attend, mlp, ("ln_1", "ln_2"))
    return dense_decoder(config, layer, norm, max_len, learned_positions=max_len, names=NAMES)


def _projection(
    parameters: LayerParameters, x: Value, name: str, out_features: Dim, stored: str = "", part: int = 0, parts: int = 1
) -> Value:
    """x [T, in] through columns `part` of `parts` equal ones of a matrix stored [in, parts*out], with bias."""
    stored, in_features = stored or name, x.shape[-1]
    columns = ("slice", 0, out_features * part, out_features * (part + 1))
    total = out_features * parts
    weight = parameters.weight(
        f"{name}.weight",
        (out_features, in_features),
        stored=f"{stored}.weight",
        view=(("reshape", (in_features, total)), ("transpose", (1, 0)), columns),
    )
    bias = parameters.weight(
        f"{name}.bias", (out_features,), stored=f"{stored}.bias", view=(("reshape", (total,)), columns)
    )
    return parameters.tracer.linear(x, weight, bias)
