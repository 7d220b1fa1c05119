"""What decoders are made of: norms, attention, feed-forward blocks, layers, and the decoder around them.

Blocks know the config's usual words and no family.
"""

from __future__ import annotations

from quire.models.blocks.attention import HeadSizes, SelfAttention, equal_head_sizes, head_sizes, read_attention
from quire.models.blocks.declarations import LayerCache
from quire.models.blocks.decoder import DecoderNames, DecoderSpec, build_decoder, dense_decoder
from quire.models.blocks.experts import ExpertNames, SparseMlp, read_expert_counts
from quire.models.blocks.layer_parameters import LayerParameters, Mixer, by_layer
from quire.models.blocks.layers import post_norm_layer, pre_norm_layer, sandwich_layer
from quire.models.blocks.mlp import GatedMlp, read_gated_mlp
from quire.models.blocks.norm import LayerNorm, Norm, RmsNorm, read_rms_norm
from quire.models.blocks.parameters import Parameters

__all__ = [
    "DecoderNames",
    "DecoderSpec",
    "ExpertNames",
    "GatedMlp",
    "HeadSizes",
    "LayerCache",
    "LayerNorm",
    "LayerParameters",
    "Mixer",
    "Norm",
    "Parameters",
    "RmsNorm",
    "SelfAttention",
    "SparseMlp",
    "build_decoder",
    "by_layer",
    "dense_decoder",
    "equal_head_sizes",
    "head_sizes",
    "post_norm_layer",
    "pre_norm_layer",
    "read_attention",
    "read_expert_counts",
    "read_gated_mlp",
    "read_rms_norm",
    "sandwich_layer",
]
