"""Gemma 3, text: Gemma 2's layer with normed heads, five sliding layers to a full one, a rotary table for each kind.

Also the language model of the image-text checkpoints, whose vision tower is left out. Source: arXiv:2503.19786.
"""

from __future__ import annotations

from dataclasses import replace

from quire.graph.ir import Value
from quire.graph.rope import RopeSpec
from quire.models.blocks.attention import AttentionSpec, LayerContext, head_sizes, self_attention
from quire.models.blocks.decoder import DecoderSpec, build_decoder, mlp_axis
from quire.models.blocks.mlp import gated_mlp
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.config.rope import LEAST_THETA, rope_object, rope_spec, scaled_max_len

GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0


def build_gemma3_text(config: ConfigReader) -> BuiltModel:
    return _build(
        config,
        ("model.",),
        ("lm_head.weight",),
        config.flag("tie_word_embeddings", True),
        config.optional_number("final_logit_softcapping") or 0.0,
    )


def build_gemma3_conditional(config: ConfigReader) -> BuiltModel:
    text = config.nested("text_config")
    tied = config.flag("tie_word_embeddings", text.flag("tie_word_embeddings", True))
    prefixes = ("language_model.model.", "model.language_model.")
    built = _build(text, prefixes, ("language_model.lm_head.weight", "lm_head.weight"), tied, 0.0)
    unknown = text.finish()
    unused = ("*vision_tower.*", "*multi_modal_projector.*", *(("language_model.lm_head.weight",) if tied else ()))
    return replace(
        built,
        ignorable_tensors=unused,
        notes=("text only: the vision tower and the projector are not loaded", *unknown),
    )


def _build(
    config: ConfigReader, prefixes: tuple[str, ...], head_names: tuple[str, ...], tied: bool, logit_softcap: float
) -> BuiltModel:
    num_heads, num_kv_heads, head_dim = head_sizes(config, heads=8, kv_heads=4, head_dim=256)
    num_layers = config.layers(default=26)
    hidden_size = config.integer("hidden_size", 2304)
    norm = RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0), weight_offset=1.0, round_before_weight=False)
    act = config.activation("hidden_activation", "gelu_pytorch_tanh")
    bias = config.flag("attention_bias", False)
    full_rope, sliding_rope = _ropes(config, head_dim)
    attention = AttentionSpec(
        num_heads,
        num_kv_heads,
        head_dim,
        config.number("query_pre_attn_scalar", 256, low=1e-6) ** -0.5,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
    )
    period = config.integer("sliding_window_pattern", 6)
    pattern = ["sliding_attention" if (index + 1) % period else "full_attention" for index in range(num_layers)]

    def layer(parameters: Parameters, x: Value, context: LayerContext) -> Value:
        t = parameters.tracer
        rope = sliding_rope if context.window else full_rope
        attended = self_attention(parameters, norm(parameters, x, "input_layernorm"), attention, context, rope)
        x = t.add(x, norm(parameters, attended, "post_attention_layernorm"))
        out = gated_mlp(parameters, norm(parameters, x, "pre_feedforward_layernorm"), act)
        return t.add(x, norm(parameters, out, "post_feedforward_layernorm"))

    spec = DecoderSpec(
        hidden_size=hidden_size,
        vocab_size=config.integer("vocab_size", 262_208),
        attention=attention,
        windows=config.layer_windows(num_layers, config.window(4096), pattern),
        tied=tied,
        final_norm=norm,
        axes=mlp_axis(config.integer("intermediate_size", 9216)),
        embed_scale=hidden_size**0.5,
        logit_softcap=logit_softcap,
        prefixes=prefixes,
        head_names=head_names,
    )
    max_len = scaled_max_len(config, full_rope, config_is_scaled=True, default=131_072)
    return BuiltModel(build_decoder(spec, layer), max_len)


def _ropes(config: ConfigReader, head_dim: int) -> tuple[RopeSpec, RopeSpec]:
    """Tables of full and sliding layers: nested by layer type today, in older files `rope_scaling` scales full ones."""
    nested = rope_object(config, "rope_parameters", config.raw("rope_parameters"))
    if set(nested) - {"full_attention", "sliding_attention"}:
        raise config.refusal("rope_parameters", "full_attention and sliding_attention are expected in it")
    full, sliding = (
        rope_object(config, "rope_parameters", nested.get(kind)) for kind in ("full_attention", "sliding_attention")
    )
    scaling = rope_object(config, "rope_scaling", config.raw("rope_scaling"))
    theta = config.number("rope_theta", GLOBAL_THETA, low=LEAST_THETA)
    local_theta = config.number("rope_local_base_freq", LOCAL_THETA, low=LEAST_THETA)
    return (
        rope_spec(config, {**full, **scaling}, head_dim, default_theta=theta),
        rope_spec(config, sliding, head_dim, default_theta=local_theta),
    )
