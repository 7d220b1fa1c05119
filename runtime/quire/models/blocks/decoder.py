"""Puts a decoder-only model together: embedding, layers bound to their KV groups, logits head.

A family describes what surrounds its layers as data (`DecoderSpec`) and gives one function that traces a layer.
Shapes here: T tokens, L logits rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from quire.errors import InternalError
from quire.graph.ir import Axis, CacheArray, CacheRef, KVGroupSpec, ModelGraph, OneOf, Part, Source, Src, Value
from quire.graph.shapes import Dim, L, T, shape_of
from quire.graph.trace import Tracer
from quire.models.blocks.attention import KV_HEADS, AttentionSpec, LayerContext
from quire.models.blocks.norm import Norm
from quire.models.blocks.parameters import Parameters

VOCAB = Dim.of("vocab")

LayerFunction = Callable[[Parameters, Value, LayerContext], Value]
"""layer(parameters, hidden [T, D], context) -> hidden [T, D]; writes the layer's cache through `attend`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder around its layers.

    Attributes:
        windows: per layer, the tokens its queries see, 0 = all.
        tied: the logits head multiplies by the embedding.
        final_norm: norm before the head.
        axes: axes beside heads, kv_heads and vocab.
        rotary: layers take "positions".
        embed_scale: factor on embeddings. logit_softcap: of the logits, 0 = none.
        learned_positions: rows of a learned position embedding that is added, 0 = none.
        prefixes: spellings of the model's prefix in checkpoints.
        embed_name, layers_name, norm_name, positions_name: tensor names under the prefix.
        head_names: spellings of the head's full tensor name.
    """

    hidden_size: int
    vocab_size: int
    attention: AttentionSpec
    windows: tuple[int, ...]
    tied: bool
    final_norm: Norm
    axes: Mapping[str, Axis] = field(default_factory=dict)
    rotary: bool = True
    embed_scale: float = 1.0
    logit_softcap: float = 0.0
    learned_positions: int = 0
    prefixes: tuple[str, ...] = ("model.",)
    embed_name: str = "embed_tokens.weight"
    positions_name: str = "wpe.weight"
    layers_name: str = "layers"
    norm_name: str = "norm"
    head_names: tuple[str, ...] = ("lm_head.weight",)


def mlp_axis(size: int) -> dict[str, Axis]:
    """The axes of a dense feed-forward block."""
    return {"mlp": Axis(size, "split")}


def expert_axes(num_experts: int, intermediate_size: int) -> dict[str, Axis]:
    """The axes of a sparse block: ranks share out whole experts, which all of them choose among."""
    return {
        "experts": Axis(num_experts, "whole"),
        "ep": Axis(num_experts, "split"),
        "expert_mlp": Axis(intermediate_size, "whole"),
    }


def build_decoder(spec: DecoderSpec, layer: LayerFunction) -> ModelGraph:
    """The model's graph: layer `i` is traced with `layer`, bound to a slot of the group its window puts it in."""
    groups = _kv_groups(spec)
    attention = spec.attention
    axes = {
        "heads": Axis(attention.num_heads, "split"),
        "kv_heads": Axis(attention.num_kv_heads, "replicate_if_fewer"),
        "vocab": Axis(spec.vocab_size, "pad"),
        **spec.axes,
    }
    slots = dict.fromkeys(groups, 0)
    layers = []
    for index, window in enumerate(spec.windows):
        group = _group_name(window)
        layers.append(_layer_part(spec, layer, index, window, CacheRef(group, slots[group])))
        slots[group] += 1
    return ModelGraph(_embed_part(spec), tuple(layers), {"logits": _logits_part(spec)}, axes, groups)


def _group_name(window: int) -> str:
    return "sliding" if window else "full"


def _kv_groups(spec: DecoderSpec) -> dict[str, KVGroupSpec]:
    if len({window for window in spec.windows if window}) > 1:
        raise InternalError(f"one window per model is expected, not {sorted(set(spec.windows))}")
    arrays = tuple(CacheArray(name, shape_of(KV_HEADS, spec.attention.head_dim)) for name in ("k", "v"))
    counts: dict[str, int] = {}
    window_of: dict[str, int] = {}
    for window in spec.windows:
        name = _group_name(window)
        counts[name] = counts.get(name, 0) + 1
        window_of[name] = window
    one_pool = len(set(counts.values())) == 1
    return {
        name: KVGroupSpec(
            "sliding" if name == "sliding" else "full", window_of[name], arrays, count, "kv" if one_pool else name
        )
        for name, count in counts.items()
    }


def _embedding_source(spec: DecoderSpec, tracer: Tracer) -> Source:
    return Parameters(tracer, spec.prefixes).source(spec.embed_name, (VOCAB, spec.hidden_size))


def _embed_part(spec: DecoderSpec) -> Part:
    t = Tracer()
    parameters = Parameters(t, spec.prefixes)
    token_ids = t.input("token_ids", (T,), "i32")
    table = t.weight(spec.embed_name, (VOCAB, spec.hidden_size), _embedding_source(spec, t))
    hidden = t.embedding(token_ids, table, scale=spec.embed_scale)
    if spec.learned_positions:
        positions = t.input("positions", (T,), "i32")
        rows = parameters.weight(spec.positions_name, (spec.learned_positions, spec.hidden_size))
        hidden = t.add(hidden, t.embedding(positions, rows))
    t.output("hidden", hidden)
    return t.part(spec.prefixes[0])


def _layer_part(spec: DecoderSpec, layer: LayerFunction, index: int, window: int, ref: CacheRef) -> Part:
    t = Tracer()
    prefixes = tuple(f"{prefix}{spec.layers_name}.{index}." for prefix in spec.prefixes)
    hidden = t.input("hidden", (T, spec.hidden_size))
    positions = t.input("positions", (T,), "i32") if spec.rotary else None
    context = LayerContext(index, window, positions, t.cache("kv", ref))
    t.output("hidden", layer(Parameters(t, prefixes), hidden, context))
    return t.part(prefixes[0])


def _logits_part(spec: DecoderSpec) -> Part:
    t = Tracer()
    hidden = t.input("hidden", (T, spec.hidden_size))
    rows = t.take_rows(hidden, t.input("logits_indices", (L,), "i32"))
    normed = spec.final_norm(Parameters(t, spec.prefixes), rows, spec.norm_name)
    shape = shape_of(VOCAB, spec.hidden_size)
    stored = tuple(Src(name, shape) for name in spec.head_names)
    apart = stored[0] if len(stored) == 1 else OneOf(stored)
    head = t.weight("lm_head.weight", shape, _embedding_source(spec, t) if spec.tied else apart)
    logits = t.linear(normed, head, out_dtype="f32")
    t.output("logits", t.softcap(logits, cap=spec.logit_softcap) if spec.logit_softcap else logits)
    return t.part("logits.")
