"""The definition of every op, in numpy, by name: what tests and backends are held against.

The functions stand in `quire.ops`, beside the rest of each op's declaration; here they are called as one device would.
`REFERENCE[op](*inputs, *weights, **attributes)`; the arrays' dtypes are those of the run (ml_dtypes for bfloat16).
Ops that touch a cache take the step's arrays as keywords instead of a context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.ops import DECLARED

REFERENCE: Mapping[str, Callable[..., Any]] = MappingProxyType({name: op.reference for name, op in DECLARED.items()})
"""Op name -> numpy function."""

__all__ = ["REFERENCE"]


def __getattr__(op: str) -> Callable[..., Any]:
    """`quire.reference.softcap`, as it was written before each op had a file."""
    if op not in REFERENCE:
        raise AttributeError(f"module {__name__!r} has no attribute {op!r}")
    return REFERENCE[op]
