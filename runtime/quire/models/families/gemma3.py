"""Gemma 3, text: Gemma 2's layer with normed heads, five sliding layers to a full one, a rotary table for each kind.

Also the language model of the image-text checkpoints, whose vision tower is left out. Source: arXiv:2503.19786.
"""

from __future__ import annotations

from dataclasses import replace

from quire.graph.rope import RopeSpec
from quire.models.blocks import (
    DecoderNames,
    SelfAttention,
    by_layer,
    dense_decoder,
    head_sizes,
    read_gated_mlp,
    read_rms_norm,
    sandwich_layer,
)
from quire.models.built_model import BuiltModel
from quire.models.config import (
    LEAST_THETA,
    ConfigReader,
    alternating_windows,
    rope_object,
    rope_spec,
    scaled_max_len,
)

GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
CLASS_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
CONDITIONAL_NAMES = DecoderNames(
    prefixes=("language_model.model.", "model.language_model."),
    heads=("language_model.lm_head.weight", "lm_head.weight"),
)


def build_gemma3_text(config: ConfigReader) -> BuiltModel:
    config.defaults(**CLASS_DEFAULTS)
    logit_softcap = config.optional_number("final_logit_softcapping") or 0.0
    return _build(config, DecoderNames(), config.flag("tie_word_embeddings"), logit_softcap)


def build_gemma3_conditional(config: ConfigReader) -> BuiltModel:
    text = config.nested("text_config")
    text.defaults(**CLASS_DEFAULTS)
    tied = config.flag("tie_word_embeddings", text.flag("tie_word_embeddings"))
    built = _build(text, CONDITIONAL_NAMES, tied, 0.0)
    unknown = text.finish()
    unused = ("*vision_tower.*", "*multi_modal_projector.*", *(("language_model.lm_head.weight",) if tied else ()))
    return replace(
        built,
        ignorable_tensors=unused,
        notes=("text only: the vision tower and the projector are not loaded", *unknown),
    )


def _build(config: ConfigReader, names: DecoderNames, tied: bool, logit_softcap: float) -> BuiltModel:
    config.spelled(hidden_act="hidden_activation")
    sizes = head_sizes(config)
    norm = read_rms_norm(config, weight_offset=1.0, round_before_weight=False)
    scale = config.number("query_pre_attn_scalar", 256, low=1e-6) ** -0.5
    bias = config.flag("attention_bias", False)
    full_rope, sliding_rope = _ropes(config, sizes.head_dim)
    full = SelfAttention(sizes, full_rope, scale, qkv_bias=bias, output_bias=bias, head_norm=norm)
    windows = alternating_windows(config, full_every=config.integer("sliding_window_pattern", 6))
    attention = by_layer([replace(full, rope=sliding_rope, window=window) if window else full for window in windows])
    return dense_decoder(
        config,
        sandwich_layer(norm, attention, read_gated_mlp(config)),
        norm,
        scaled_max_len(config, full_rope, config_is_scaled=True),
        tied=tied,
        embed_scale=config.integer("hidden_size") ** 0.5,
        logit_softcap=logit_softcap,
        names=names,
    )


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
