"""paged_attention: attention over a paged KV cache.

T tokens, S sequences, H heads, KV kv_heads, d head_dim, dv that of v, B blocks a sequence. Caches are as
`quire.ops.cache_write` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.graph.alibi import slopes_of_rank
from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, shape_error
from quire.graph.shapes import Dim
from quire.ops.cache_write import PagedCache
from quire.ops.declaration import Op, RunContext
from quire.ops.kit import MOST_FEATURES, FoundCase, NodeOfModel, OpKit
from quire.ops.kit_attention import GQA, LONG, RAGGED, attention, attention_row, grouped_draw
from quire.ops.kv_quantization import dequantize_vectors
from quire.ops.rounding import as_f32, round_to
from quire.ops.softcap import capped


def paged_attention(
    q: np.ndarray,
    cache: PagedCache,
    sinks: np.ndarray | None = None,
    *,
    block_tables: np.ndarray,
    query_start_loc: np.ndarray,
    num_computed: np.ndarray,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    causal: bool = True,
    alibi_slopes: np.ndarray | None = None,
    v_head_dim: int = 0,
) -> np.ndarray:
    """softmax(scale * q.k) @ v of every query row over the keys it sees.

    Row i of sequence s has KV index `num_computed[s] + i`. It sees key j of its sequence if (not causal or
    j <= index) and (window == 0 or j > index - window). Head h reads KV head h // (H / KV). Keys that are not
    seen, and blocks of -1, are never read; a row that sees nothing is 0.

    Args:
        q: [T, H, d]. block_tables: int32 [S, B]. query_start_loc: int32 [S+1]. num_computed: int32 [S].
        softcap: > 0 caps scaled scores before the softmax: cap * tanh(score / cap).
        sinks: [H] logits, taken as they are, of a key without a value: they take part in the softmax's sum only.
        alibi_slopes: float32 [H] (`quire.graph.alibi`); adds slope * (key index - row index) after the softcap.
        v_head_dim: dv where it is not d; 0 = d. The cache's v says it too.
    Returns: [T, H, dv] in q's dtype; scores, softmax and sums are float32.
    Source: arXiv:2309.06180; grouped queries arXiv:2305.13245.
    """
    out = np.zeros((*q.shape[:2], cache["v"].shape[-1]), np.float32)
    q32 = as_f32(q)
    for seq, table in enumerate(block_tables):
        start, end = int(query_start_loc[seq]), int(query_start_loc[seq + 1])
        seq_len = int(num_computed[seq]) + end - start
        for row in range(start, end):
            index = int(num_computed[seq]) + row - start
            first = max(0, index - window + 1) if window else 0
            keys = np.arange(first, index + 1 if causal else seq_len)
            k, v = _gather(cache, table, keys)
            if k.shape[1]:
                bias = None if alibi_slopes is None else _bias(alibi_slopes, keys, index, table, cache["k"].shape[1])
                out[row] = _attend(q32[row], k, v, scale, softcap, sinks, bias)
    return round_to(out, q.dtype)


def _gather(cache: PagedCache, table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 k [KV, n, d] and v [KV, n, dv] of the keys whose blocks are resident."""
    block_size = cache["k"].shape[1]
    blocks = table[keys // block_size]
    resident = blocks >= 0
    where = blocks[resident], keys[resident] % block_size
    k, v = (
        dequantize_vectors(cache[name][where], cache[f"{name}_scale"][where])
        if f"{name}_scale" in cache
        else cache[name][where]
        for name in ("k", "v")
    )
    return as_f32(k.swapaxes(0, 1)), as_f32(v.swapaxes(0, 1))


def _bias(slopes: np.ndarray, keys: np.ndarray, index: int, table: np.ndarray, block_size: int) -> np.ndarray:
    """float32 [H, n] of the keys whose blocks are resident."""
    keys = keys[table[keys // block_size] >= 0]
    return slopes[:, None] * (keys - index).astype(np.float32)


def _attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    softcap: float,
    sinks: np.ndarray | None,
    bias: np.ndarray | None,
) -> np.ndarray:
    """One query row [H, d] over k [KV, n, d], v [KV, n, dv]: float32 [H, dv]."""
    num_heads, num_kv_heads = q.shape[0], k.shape[0]
    grouped = q.reshape(num_kv_heads, num_heads // num_kv_heads, -1)
    scores = np.matmul(grouped, k.swapaxes(1, 2)) * np.float32(scale)  # [KV, H/KV, n]
    if softcap:
        scores = capped(scores, softcap)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    largest = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = as_f32(sinks).reshape(*scores.shape[:2], 1)
        largest = np.maximum(largest, sink)
    scores = np.exp(scores - largest)
    total = scores.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sink - largest)
    probabilities = scores / total
    return np.matmul(probabilities, v).reshape(num_heads, -1)


def _run_keywords(run: RunContext) -> dict[str, Any]:
    return {"alibi_slopes": slopes_of_rank(run.node, run.graph, run.axes, run.rank)}


def _shape(args: OpArgs) -> Outputs:
    if len(args.shape(0)) != 3:
        raise shape_error("paged_attention", f"q is {args.shape(0)}, not [T, heads, head_dim]")
    sinks = args.weights[0]
    if sinks is not None and sinks.shape != args.shape(0)[1:2]:
        raise shape_error("paged_attention", f"sinks are {sinks.shape}, q has {args.shape(0)[1]} heads")
    return (((*args.shape(0)[:2], _value_width(args)), "act"),)


def _value_width(args: OpArgs) -> Dim:
    """Elements of a head of v, and so of the result."""
    return Dim.of(args.attrs["v_head_dim"]) if args.attrs["v_head_dim"] else args.shape(0)[2]


def _flops(args: OpArgs) -> Dim:
    tokens, heads, head_dim = args.shape(0)
    return tokens * heads * (head_dim + _value_width(args)) * Dim.of("C") * 2


def _of_node(n: NodeOfModel) -> FoundCase:
    _, heads, head_dim = n.shape(0)
    kv_heads = n.model.axes["kv_heads"].size
    if heads * head_dim > MOST_FEATURES:  # as many queries to a key head, fewer of both
        kv_heads = max(1, kv_heads * MOST_FEATURES // (heads * head_dim))
        heads = kv_heads * (heads // n.model.axes["kv_heads"].size)
    return {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}, n.attrs()


def _draw(st: Any) -> tuple[Any, Any]:
    attrs = {
        "window": st.integers(0, 24),
        "softcap": st.sampled_from((0.0, 3.0)),
        "scale": st.sampled_from((0.0625, 0.3, 1.0)),
    }
    return grouped_draw(st), st.fixed_dictionaries(attrs)


_SINKS = {**GQA, "sinks": 1}

OP = Op(
    spec=OpSpec(
        name="paged_attention",
        inputs=("q", "cache"),
        weights=("sinks?",),
        outputs=("out",),
        attrs={"scale": REQUIRED, "window": 0, "softcap": 0.0, "causal": True, "alibi": 0.0, "v_head_dim": 0},
        attr_types={"scale": "float"},
        features=("sinks", "alibi", "v_head_dim"),
        shape=_shape,
        flops=_flops,
    ),
    reference=paged_attention,
    run_keywords=_run_keywords,
    replaced=frozenset({"alibi"}),
    step_keywords={
        "block_tables": "{group}.block_tables",
        "query_start_loc": "query_start_loc",
        "num_computed": "num_computed",
    },
    kit=OpKit(
        body=attention,
        cases=(
            attention_row("ragged"),
            attention_row("one_token", ((0, 1),)),
            attention_row("long_prefix", LONG),
            attention_row("scale", scale=0.9),
            attention_row("multi_head", RAGGED, {"heads": 3, "kv_heads": 3, "head_dim": 16}),
            attention_row("multi_query", RAGGED, {"heads": 6, "kv_heads": 1, "head_dim": 16}),
            attention_row("odd_group", RAGGED, {"heads": 10, "kv_heads": 2, "head_dim": 32}),
            attention_row("window", LONG, window=9),
            attention_row("window_of_one", RAGGED, window=1),
            attention_row("window_at_block_edge", LONG, window=16),
            attention_row("softcap", RAGGED, spread=3.0, softcap=2.0),
            attention_row("softcap_window", LONG, spread=3.0, softcap=2.0, window=7),
            attention_row("peaked_scores", RAGGED, spread=12.0),
            attention_row("not_causal", ((0, 7), (0, 2)), causal=False),
            attention_row("sinks", RAGGED, _SINKS),
            attention_row("sinks_window_softcap", LONG, _SINKS, spread=3.0, window=9, softcap=2.0),
            attention_row("alibi", LONG, {"heads": 4, "kv_heads": 4, "head_dim": 16}, alibi=8.0),
            attention_row("alibi_odd_heads", RAGGED, {"heads": 6, "kv_heads": 2, "head_dim": 16}, alibi=4.0),
            attention_row("alibi_sinks_window", LONG, _SINKS, alibi=8.0, window=20),
            attention_row("narrow_values", LONG, {**GQA, "head_dim": 48}, v_head_dim=32, window=9),
            attention_row("wide_values", RAGGED, v_head_dim=32),
        ),
        draw=_draw,
        of_node=_of_node,
        cache="moves",
    ),
)
