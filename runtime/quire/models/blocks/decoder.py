"""Puts a decoder-only model together: embedding, layers, logits head, and what the layers declared.

Shapes here: T tokens, L logits rows, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import ModelGraph, OneOf, Part, Source, Src
from quire.graph.shapes import Dim, L, T, shape_of
from quire.graph.trace import Tracer
from quire.models.blocks.declarations import Declarations
from quire.models.blocks.layer_parameters import LayerParameters, Mixer
from quire.models.blocks.norm import Norm
from quire.models.blocks.parameters import Parameters
from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader

VOCAB = Dim.of("vocab")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderNames:
    """What checkpoints call a decoder's tensors.

    Attributes:
        prefixes: spellings of the model's prefix, the preferred one first.
        embed, positions, layers, norm: tensor names under the prefix.
        heads: spellings of the head's full tensor name.
    """

    prefixes: tuple[str, ...] = ("model.",)
    embed: str = "embed_tokens.weight"
    positions: str = "wpe.weight"
    layers: str = "layers"
    norm: str = "norm"
    heads: tuple[str, ...] = ("lm_head.weight",)


USUAL_NAMES = DecoderNames()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder around its layers.

    Attributes:
        tied: the logits head multiplies by the embedding.
        final_norm: norm before the head.
        embed_scale: factor on embeddings. logit_softcap: of the logits, 0 = none.
        learned_positions: rows of a learned position embedding that is added, 0 = none.
    """

    hidden_size: int
    vocab_size: int
    num_layers: int
    tied: bool
    final_norm: Norm
    embed_scale: float = 1.0
    logit_softcap: float = 0.0
    learned_positions: int = 0
    names: DecoderNames = USUAL_NAMES


def dense_decoder(
    config: ConfigReader,
    layer: Mixer,
    final_norm: Norm,
    max_model_len: int,
    *,
    tied: bool | None = None,
    embed_scale: float = 1.0,
    logit_softcap: float = 0.0,
    learned_positions: int = 0,
    names: DecoderNames = USUAL_NAMES,
) -> BuiltModel:
    """A decoder whose size, depth, vocabulary and tying stand in the config in the usual words.

    Args:
        layer: traces one layer. max_model_len: longest sequence that its positions cover.
        tied: whatever `tie_word_embeddings` says; None = as it says.
        Others are `DecoderSpec`'s.
    """
    spec = DecoderSpec(
        hidden_size=config.integer("hidden_size"),
        vocab_size=config.integer("vocab_size"),
        num_layers=config.layers(),
        tied=config.flag("tie_word_embeddings", False) if tied is None else tied,
        final_norm=final_norm,
        embed_scale=embed_scale,
        logit_softcap=logit_softcap,
        learned_positions=learned_positions,
        names=names,
    )
    return BuiltModel(build_decoder(spec, layer), max_model_len)


def build_decoder(spec: DecoderSpec, layer: Mixer) -> ModelGraph:
    """The model's graph. Axes and cache groups are what `layer` declared while it was traced."""
    declarations = Declarations()
    declarations.axis("vocab", spec.vocab_size, "pad")
    layers = tuple(_layer_part(spec, layer, index, declarations) for index in range(spec.num_layers))
    heads = {"logits": _logits_part(spec)}
    return ModelGraph(_embed_part(spec), layers, heads, declarations.axes, declarations.kv_groups())


def _embedding_source(spec: DecoderSpec, tracer: Tracer) -> Source:
    return Parameters(tracer, spec.names.prefixes).source(spec.names.embed, (VOCAB, spec.hidden_size))


def _embed_part(spec: DecoderSpec) -> Part:
    t, names = Tracer(), spec.names
    token_ids = t.input("token_ids", (T,), "i32")
    table = t.weight(names.embed, (VOCAB, spec.hidden_size), _embedding_source(spec, t))
    hidden = t.embedding(token_ids, table, scale=spec.embed_scale)
    if spec.learned_positions:
        positions = t.input("positions", (T,), "i32")
        rows = Parameters(t, names.prefixes).weight(names.positions, (spec.learned_positions, spec.hidden_size))
        hidden = t.add(hidden, t.embedding(positions, rows))
    t.output("hidden", hidden)
    return t.part(names.prefixes[0])


def _layer_part(spec: DecoderSpec, layer: Mixer, index: int, declarations: Declarations) -> Part:
    t = Tracer()
    prefixes = tuple(f"{prefix}{spec.names.layers}.{index}." for prefix in spec.names.prefixes)
    hidden = t.input("hidden", (T, spec.hidden_size))
    t.output("hidden", layer(LayerParameters(t, prefixes, index, spec.hidden_size, declarations), hidden))
    return t.part(prefixes[0])


def _logits_part(spec: DecoderSpec) -> Part:
    t = Tracer()
    hidden = t.input("hidden", (T, spec.hidden_size))
    rows = t.take_rows(hidden, t.input("logits_indices", (L,), "i32"))
    normed = spec.final_norm(Parameters(t, spec.names.prefixes), rows, spec.names.norm)
    shape = shape_of(VOCAB, spec.hidden_size)
    stored = tuple(Src(name, shape) for name in spec.names.heads)
    apart = stored[0] if len(stored) == 1 else OneOf(stored)
    head = t.weight("lm_head.weight", shape, _embedding_source(spec, t) if spec.tied else apart)
    logits = t.linear(normed, head, out_dtype="f32")
    t.output("logits", t.softcap(logits, cap=spec.logit_softcap) if spec.logit_softcap else logits)
    return t.part("logits.")
