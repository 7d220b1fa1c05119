"""Self-attention over the paged cache, shared by the families.

Shapes here: T tokens, heads and kv_heads the symbols of the two head axes, d head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.errors import ModelError
from quire.graph.ir import Value
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, T
from quire.models.blocks.norm import RmsNorm
from quire.models.blocks.parameters import Parameters
from quire.models.config.reader import LONGEST_HEAD, MISSING, ConfigReader

HEADS, KV_HEADS = Dim.of("heads"), Dim.of("kv_heads")


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What all attention layers of a model have in common.

    Attributes:
        scale: factor on q.k before softcap and softmax.
        qkv_bias, output_bias: biases of the projections.
        softcap: of the scores, 0 = none.
        head_norm: norm of each head of q and k before rotary, or None.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    qkv_bias: bool = False
    output_bias: bool = False
    softcap: float = 0.0
    head_norm: RmsNorm | None = None


@dataclass(frozen=True, slots=True)
class LayerContext:
    """What a layer gets beside its hidden state.

    Attributes:
        index: the layer's number. window: tokens its queries see, 0 = all.
        positions: i32 [T], None where the model's layers use none.
        cache: the layer's KV cache before the step.
    """

    index: int
    window: int
    positions: Value | None
    cache: Value


def head_sizes(
    config: ConfigReader, *, heads: int = MISSING, kv_heads: int | None = None, head_dim: int | None = None
) -> tuple[int, int, int]:
    """(num_heads, num_kv_heads, head_dim) of a config in the usual names; arguments are the family's defaults."""
    num_heads = config.integer("num_attention_heads", heads)
    num_kv_heads = config.integer("num_key_value_heads", kv_heads or num_heads)
    head_dim = config.integer("head_dim", head_dim or config.integer("hidden_size") // num_heads, high=LONGEST_HEAD)
    if num_heads % num_kv_heads:
        raise ModelError(
            f"{config.where}: {num_heads} attention heads over {num_kv_heads} key-value heads",
            because="the first must be a multiple of the second",
        )
    return num_heads, num_kv_heads, head_dim


def project_qkv(parameters: Parameters, x: Value, spec: AttentionSpec) -> tuple[Value, Value, Value]:
    """q [T, heads*d], k and v [T, kv_heads*d] by projections stored apart."""
    q, k, v = (
        parameters.linear(x, f"self_attn.{name}_proj", axis * spec.head_dim, bias=spec.qkv_bias)
        for name, axis in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
    )
    return q, k, v


def attend(
    parameters: Parameters,
    qkv: tuple[Value, Value, Value],
    spec: AttentionSpec,
    context: LayerContext,
    rope: RopeSpec | None,
) -> Value:
    """Attention of q [T, heads*d] over the cache, after k and v [T, kv_heads*d] are written to it: [T, heads*d]."""
    t = parameters.tracer
    q, k, v = (
        t.reshape(value, shape=(T, axis, Dim.of(spec.head_dim)))
        for value, axis in zip(qkv, (HEADS, KV_HEADS, KV_HEADS), strict=True)
    )
    if spec.head_norm is not None:
        q = spec.head_norm(parameters, q, "self_attn.q_norm")
        k = spec.head_norm(parameters, k, "self_attn.k_norm")
    if rope is not None:
        q = t.rotary(q, context.positions, table=rope)
        k = t.rotary(k, context.positions, table=rope)
    cache = t.cache_write(context.cache, k, v)
    t.output("kv", cache)
    out = t.paged_attention(q, cache, scale=spec.scale, window=context.window, softcap=spec.softcap)
    return t.reshape(out, shape=(T, HEADS * spec.head_dim))


def self_attention(
    parameters: Parameters, x: Value, spec: AttentionSpec, context: LayerContext, rope: RopeSpec
) -> Value:
    """The usual block: project, norm heads where asked, rotate, attend, project back to [T, D]."""
    out = attend(parameters, project_qkv(parameters, x, spec), spec, context, rope)
    return parameters.linear(out, "self_attn.o_proj", x.shape[-1], bias=spec.output_bias)
