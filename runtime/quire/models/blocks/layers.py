"""Layers as families publish them: where the norms stand."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.models.blocks.layer_parameters import LayerParameters, Mixer
from quire.models.blocks.norm import Norm


def pre_norm_layer(
    norm: Norm,
    attention: Mixer,
    mlp: Mixer,
    names: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
) -> Mixer:
    """Llama's: x + attention(norm(x)), then x + mlp(norm(x)). `names` are those of the two norms."""

    def layer(parameters: LayerParameters, x: Value) -> Value:
        for mixer, name in zip((attention, mlp), names, strict=True):
            x = parameters.tracer.add(x, mixer(parameters, norm(parameters, x, name)))
        return x

    return layer


def post_norm_layer(norm: Norm, attention: Mixer, mlp: Mixer) -> Mixer:
    """OLMo 2's: x + norm(attention(x)), then x + norm(mlp(x))."""

    def layer(parameters: LayerParameters, x: Value) -> Value:
        for mixer, name in ((attention, "post_attention_layernorm"), (mlp, "post_feedforward_layernorm")):
            x = parameters.tracer.add(x, norm(parameters, mixer(parameters, x), name))
        return x

    return layer


def sandwich_layer(norm: Norm, attention: Mixer, mlp: Mixer) -> Mixer:
    """Gemma's: a norm before and one after each block."""

    def layer(parameters: LayerParameters, x: Value) -> Value:
        for mixer, before, after in (
            (attention, "input_layernorm", "post_attention_layernorm"),
            (mlp, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ):
            out = mixer(parameters, norm(parameters, x, before))
            x = parameters.tracer.add(x, norm(parameters, out, after))
        return x

    return layer
