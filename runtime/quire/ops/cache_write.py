"""cache_write: keys and values to their slots. T tokens, KV kv_heads, d head_dim.

A cache is `{"k": [blocks, block_size, KV, d], "v": [blocks, block_size, KV, dv]}` in the KV dtype; an int8 one has
float32 "k_scale" and "v_scale" [blocks, block_size, KV] as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.graph.op_spec import OpArgs, OpSpec, Outputs, shape_error
from quire.ops.declaration import Op
from quire.ops.kit import OpKit
from quire.ops.kit_attention import attention, attention_row, grouped_draw
from quire.ops.kit_rows import nothing_draw
from quire.ops.kv_quantization import quantize_vectors
from quire.ops.rounding import round_to
from quire.ops.shape_rules import no_flops

PagedCache = Mapping[str, np.ndarray]


def cache_write(cache: PagedCache, k: np.ndarray, v: np.ndarray, *, slots: np.ndarray) -> PagedCache:
    """Stores k [T, KV, d] and v [T, KV, dv] at `slots` int32 [T] (block_id * block_size + offset).

    They are rounded to the KV dtype, or quantized with their scales for int8. A slot of -1 is not written. The cache
    is changed in place and returned.
    """
    resident = slots >= 0
    for name, rows in (("k", k), ("v", v)):
        if f"{name}_scale" in cache:
            quantized, scales = quantize_vectors(rows[resident])
            _slots(cache[name])[slots[resident]] = quantized
            _slots(cache[f"{name}_scale"])[slots[resident]] = scales
        else:
            _slots(cache[name])[slots[resident]] = round_to(rows[resident], cache[name].dtype)
    return cache


def _slots(array: np.ndarray) -> np.ndarray:
    """[blocks, block_size, ...] as [slots, ...]; a view, since caches are contiguous."""
    return array.reshape(-1, *array.shape[2:])


SLOTS = {"slots": "{group}.slots"}
"""Where the step has the slots, also those of rotary_cache_write."""


def _shape(args: OpArgs) -> Outputs:
    if len(args.shape(1)) != 3 or args.shape(1)[:2] != args.shape(2)[:2]:
        raise shape_error("cache_write", f"k {args.shape(1)}, v {args.shape(2)}: not both [T, kv_heads, head_dim]")
    return (((), "cache"),)


OP = Op(
    spec=OpSpec(
        name="cache_write",
        inputs=("cache", "k", "v"),
        weights=(),
        outputs=("cache",),
        attrs={},
        shape=_shape,
        flops=no_flops,
    ),
    reference=cache_write,
    step_keywords=SLOTS,
    kit=OpKit(
        body=attention,
        cases=(attention_row("ragged"), attention_row("block_edges", ((15, 2), (16, 1), (0, 16), (31, 33)))),
        draw=lambda st: (grouped_draw(st), nothing_draw(st)),
        cache="moves",
    ),
)
