"""Bodies, lines and draws of ops that rotate heads or touch the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.graph.ir import Value
from quire.graph.rope import RopeSpec
from quire.graph.shapes import shape_of
from quire.ops.kit import KitCase, Lines, OpBody, OpTrace, Row

GQA: Mapping[str, int] = {"heads": 4, "kv_heads": 2, "head_dim": 16}
RAGGED: Lines = ((0, 3), (7, 1), (17, 4), (0, 1))
LONG: Lines = ((33, 2), (0, 19))
ROPE = RopeSpec(10000.0, 16)


def attention_row(
    variant: str, lines: Lines = RAGGED, sizes: Mapping[str, int] = GQA, spread: float = 1.0, **attrs: Any
) -> Row:
    """A fixed case of attention over a paged cache."""
    return variant, sizes, attrs, {"lines": lines, "spread": spread}


def attention(case: KitCase) -> OpBody:
    """Queries, keys and values are pieces of a row; keys and values are written, then attention reads them.

    `cache_write` and `rotary_cache_write` are looked at through what attention reads.
    """
    heads, kv_heads, dim = case.size("heads"), case.size("kv_heads"), case.size("head_dim")
    v_dim = case.attrs.get("v_head_dim") or dim
    rotary = {name: case.attrs[name] for name in ("table", "style") if name in case.attrs}
    attrs = {name: value for name, value in case.attrs.items() if name not in rotary}
    rotates = case.op == "rotary_cache_write"

    def trace(o: OpTrace) -> Value:
        q, k, v = o.t.split(o.x, sizes=shape_of(heads * dim, kv_heads * dim, kv_heads * v_dim))
        q, k, v = o.heads(q, heads, dim), o.heads(k, kv_heads, dim), o.heads(v, kv_heads, v_dim)
        if rotates:
            q, o.written = o.t.rotary_cache_write(q, k, v, o.positions, o.cache, **rotary)
        else:
            o.written = o.t.cache_write(o.cache, k, v)
        sinks = o.weight("sinks", heads) if case.size("sinks") else None
        out = o.t.paged_attention(q, o.written, sinks, **{"scale": dim**-0.5, **attrs})
        return o.flat(out, heads * v_dim)

    return OpBody(
        (heads + kv_heads) * dim + kv_heads * v_dim,
        heads * v_dim,
        trace,
        uses_cache=True,
        uses_positions=rotates,
    )


def grouped_draw(st: Any) -> Any:
    """Sizes with fewer KV heads than heads."""
    return st.builds(
        lambda kv, group, dim: {"heads": kv * group, "kv_heads": kv, "head_dim": dim},
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from((16, 32)),
    )


def heads_draw(st: Any) -> Any:
    return st.fixed_dictionaries({"heads": st.integers(1, 5), "head_dim": st.sampled_from((16, 32))})


def rope_draw(st: Any) -> Any:
    return st.fixed_dictionaries(
        {
            "table": st.builds(RopeSpec, st.sampled_from((1e4, 5e5)), st.sampled_from((8, 16))),
            "style": st.sampled_from(("neox", "gptj")),
        }
    )
