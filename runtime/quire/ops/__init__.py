"""The op set: one file an op, each declared whole. This is the list; nothing else names them all.

Shapes in these files: T tokens, L logit rows, D hidden, H heads, KV kv_heads, d head_dim, V vocab, E experts, k experts
per token. Rows are dimension 0. The activation dtype is the one of the run; every op computes in float32 and rounds
its results to their dtype once, unless its docstring says otherwise. To add an op: docs/adding/op.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quire.graph.op_table import declare
from quire.ops import (
    activation,
    add,
    add_rms_norm,
    all_gather,
    all_reduce,
    cache_write,
    embedding,
    experts,
    gated_activation,
    layer_norm,
    linear,
    paged_attention,
    reshape,
    rms_norm,
    rotary,
    rotary_cache_write,
    route_experts,
    scale,
    softcap,
    split,
    take_rows,
)
from quire.ops.activations import ACTIVATIONS
from quire.ops.declaration import Op, RunContext

DECLARED: Mapping[str, Op] = MappingProxyType(
    {
        module.OP.name: module.OP
        for module in (
            embedding,
            linear,
            rms_norm,
            layer_norm,
            add,
            scale,
            softcap,
            activation,
            gated_activation,
            split,
            reshape,
            take_rows,
            rotary,
            cache_write,
            paged_attention,
            route_experts,
            experts,
            all_reduce,
            all_gather,
            add_rms_norm,
            rotary_cache_write,
        )
    }
)
"""Every op by name."""

declare(op.spec for op in DECLARED.values())

__all__ = ["ACTIVATIONS", "DECLARED", "Op", "RunContext"]
