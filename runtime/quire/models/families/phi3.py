"""Phi-3: Llama's layer with q, k, v in one stored matrix, gate and up in another. Source: arXiv:2404.14219."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.graph.shapes import Dim
from quire.models.blocks import (
    GatedMlp,
    LayerParameters,
    SelfAttention,
    dense_decoder,
    pre_norm_layer,
    read_attention,
    read_gated_mlp,
    read_rms_norm,
)
from quire.models.built_model import BuiltModel
from quire.models.config import ConfigReader, read_rope


def build_phi3(config: ConfigReader) -> BuiltModel:
    config.defaults(rms_norm_eps=1e-5)
    norm, attention = read_rms_norm(config), read_attention(config, window=config.window())
    if read_rope(config, attention.sizes.head_dim).scaling != "default":
        raise config.refusal(
            "rope_scaling",
            "Phi-3 is published with the rope types default and longrope; "
            "longrope, which looks at the sequence's length, is not implemented",
        )
    mlp = read_gated_mlp(config)
    layer = pre_norm_layer(
        norm,
        lambda parameters, x: _attention(parameters, x, attention),
        lambda parameters, x: _gated_mlp(parameters, x, mlp),
    )
    return dense_decoder(config, layer, norm, config.integer("max_position_embeddings"))


def _attention(parameters: LayerParameters, x: Value, attention: SelfAttention) -> Value:
    rows = {f"{name}_proj": size for name, size in attention.rows(parameters).items()}
    q, k, v = _sliced_linears(parameters, x, "self_attn", "qkv_proj", rows)
    return attention.project_back(parameters, attention.attend(parameters, (q, k, v)))


def _gated_mlp(parameters: LayerParameters, x: Value, mlp: GatedMlp) -> Value:
    rows = parameters.axis("mlp", mlp.size)
    gate, up = _sliced_linears(parameters, x, "mlp", "gate_up_proj", {"gate_proj": rows, "up_proj": rows})
    return mlp.project_back(parameters, gate, up)


def _sliced_linears(
    parameters: LayerParameters, x: Value, block: str, stored: str, sizes: dict[str, Dim]
) -> list[Value]:
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
