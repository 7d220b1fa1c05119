"""The definition of every op, in numpy: what tests and backends are held against.

`REFERENCE[op](*inputs, *weights, **attributes)`; the arrays' dtypes are those of the run (ml_dtypes for
bfloat16). Ops that touch a cache take the step's arrays as keywords instead of a context. Every function
computes in float32, rounds where its docstring says, and gives a row the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.reference.attention import cache_write, paged_attention
from quire.reference.elementwise import (
    activation,
    add,
    all_gather,
    all_reduce,
    gated_activation,
    reshape,
    scale,
    softcap,
    split,
    take_rows,
)
from quire.reference.experts import experts, route_experts
from quire.reference.fused import add_rms_norm, rotary_cache_write
from quire.reference.linear import embedding, linear
from quire.reference.norms import layer_norm, rms_norm
from quire.reference.rotary import rotary

_FUNCTIONS: tuple[Callable[..., Any], ...] = (
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

REFERENCE: Mapping[str, Callable[..., Any]] = MappingProxyType({f.__name__: f for f in _FUNCTIONS})
"""Op name -> numpy function."""

__all__ = ["REFERENCE", *REFERENCE]
