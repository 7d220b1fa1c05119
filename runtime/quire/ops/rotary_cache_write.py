"""rotary_cache_write: `rotary` of q, `rotary` of k and `cache_write`, with the same rounding between them."""

from __future__ import annotations

import numpy as np

from quire.graph.op_spec import REQUIRED, OpArgs, OpSpec, Outputs, elementwise_flops
from quire.graph.rope import RopeSpec
from quire.ops.cache_write import SLOTS, PagedCache, cache_write
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_attention import LONG, RAGGED, ROPE, attention, attention_row, grouped_draw, rope_draw
from quire.ops.rotary import max_len_keyword, rotary


def rotary_cache_write(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    positions: np.ndarray,
    cache: PagedCache,
    *,
    slots: np.ndarray,
    table: RopeSpec,
    style: str = "neox",
    max_len: int | None = None,
) -> tuple[np.ndarray, PagedCache]:
    """(rotary(q), cache with rotary(k) and v written). Operands and attributes are those of the two ops."""
    rotated_k = rotary(k, positions, table=table, style=style, max_len=max_len)
    return (
        rotary(q, positions, table=table, style=style, max_len=max_len),
        cache_write(cache, rotated_k, v, slots=slots),
    )


def _shape(args: OpArgs) -> Outputs:
    return ((args.shape(0), "act"), ((), "cache"))


OP = Op(
    spec=OpSpec(
        name="rotary_cache_write",
        inputs=("q", "k", "v", "positions", "cache"),
        weights=(),
        outputs=("q", "cache"),
        attrs={"table": REQUIRED, "style": "neox"},
        attr_types={"table": "RopeSpec"},
        shape=_shape,
        flops=elementwise_flops(3),
        in_place=((0, 0),),
        fused_from=("rotary", "rotary", "cache_write"),
    ),
    reference=rotary_cache_write,
    run_keywords=max_len_keyword,
    step_keywords=SLOTS,
    kit=OpKit(
        body=attention,
        cases=(
            attention_row("neox", table=ROPE),
            attention_row("gptj_long", LONG, table=ROPE, style="gptj"),
            attention_row("partial", RAGGED, {"heads": 4, "kv_heads": 2, "head_dim": 32}, table=RopeSpec(5e5, 16)),
        ),
        draw=lambda st: (grouped_draw(st), rope_draw(st)),
        cache="computes",
    ),
)
