"""GPT-2: learned positions, layer norms, biases, weights stored [in, out]. Source: the GPT-2 report (2019)."""

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


def build_gpt2(config: ConfigReader) -> BuiltModel:
    hidden_size, num_heads = config.integer("n_embd"), config.integer("n_head")
    if hidden_size % num_heads:
        raise config.refusal("n_head", f"it must divide n_embd={hidden_size}")
    head_dim = hidden_size // num_heads
    if head_dim > LONGEST_HEAD:
        raise config.refusal("n_head", f"heads of {head_dim} dimensions; at most {LONGEST_HEAD} are read")
    norm = LayerNorm(config.number("layer_norm_epsilon", 1e-5, high=1.0))
    act = config.activation("activation_function", "gelu_new")
    scale = head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    attention = AttentionSpec(num_heads, num_heads, head_dim, scale)
    max_len = config.integer("n_positions")

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        normed = norm(parameters, x, "ln_1")
        q, k, v = (
            _projection(parameters, normed, name, axis * head_dim, "attn.c_attn", part, 3)
            for part, (name, axis) in enumerate((("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)))
        )
        attended = attend(parameters, (q, k, v), attention, context, None)
        x = t.add(x, _projection(parameters, attended, "attn.c_proj", x.shape[-1]))
        hidden = _projection(parameters, norm(parameters, x, "ln_2"), "mlp.c_fc", MLP)
        return t.add(x, _projection(parameters, t.activation(hidden, act=act), "mlp.c_proj", x.shape[-1]))

    spec = DecoderSpec(
        hidden_size=hidden_size,
        vocab_size=config.integer("vocab_size"),
        attention=attention,
        windows=(0,) * config.layers("n_layer"),
        tied=config.flag("tie_word_embeddings", True),
        final_norm=norm,
        axes=mlp_axis(config.integer("n_inner", 4 * hidden_size)),
        rotary=False,
        learned_positions=max_len,
        prefixes=("transformer.", ""),
        embed_name="wte.weight",
        layers_name="h",
        norm_name="ln_f",
    )
    return BuiltModel(build_decoder(spec, layer), max_len)


def _projection(
    parameters: Parameters, x: Value, name: str, out_features: Dim, stored: str = "", part: int = 0, parts: int = 1
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
