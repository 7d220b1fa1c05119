"""The fixed L2 cases of the ops, in the dtypes and of the features that a device declares.

The cases themselves stand in each op's file in `quire.ops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quire.device.capabilities import Capabilities
from quire.graph.kv_arrays import QUANTIZED_KV_DTYPES
from quire.ops import DECLARED
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.subject import Dtypes

QUANTIZED_CACHE_TOLERANCE = 3e-2
"""For values computed before they are quantized into a cache: one that lies between two steps may go to either."""

QUANTIZED_READ_TOLERANCE = 3e-5
"""For attention over equal quantized pages: scales may be applied to elements or to sums."""


def dtypes_of(op: str, capabilities: Capabilities) -> Iterator[Dtypes]:
    """Every activation dtype; with it every weight dtype for matrices and every KV dtype for caches."""
    kit = DECLARED[op].kit
    for act in capabilities.act_dtypes:
        weights = _first(act, capabilities.weight_dtypes)
        caches = _first(act, capabilities.kv_dtypes)
        for weight in weights if kit.takes_matrices else weights[:1]:
            for kv in caches if kit.cache else caches[:1]:
                yield Dtypes(act, weight, kv)


def tolerance(case: OpCase) -> float:
    """The op's bound for the activation dtype; where computed values are rounded into a cache, for the coarser one."""
    op = DECLARED[case.op]
    bound = op.spec.tolerance[case.dtypes.act]
    if op.kit.cache == "computes":
        return max(bound, op.spec.tolerance.get(case.dtypes.kv, QUANTIZED_CACHE_TOLERANCE))
    if op.kit.cache and case.dtypes.kv in QUANTIZED_KV_DTYPES:
        return max(bound, QUANTIZED_READ_TOLERANCE)
    return bound


def undeclared_features(
    op: str, capabilities: Capabilities, sizes: Mapping[str, int], attrs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Features of the op that a case with these sizes and attributes needs and the device does not declare."""
    needed = (f"{op}.{name}" for name in DECLARED[op].spec.features if sizes.get(name) or attrs.get(name))
    return tuple(feature for feature in needed if feature not in capabilities.op_features)


def fixed_cases(op: str, capabilities: Capabilities, seed: int) -> Iterator[OpCase]:
    """The op's fixed cases in every dtype that the device declares, of the features that it declares."""
    for variant, sizes, attrs, fields in DECLARED[op].kit.cases:
        if undeclared_features(op, capabilities, sizes, attrs):
            continue
        for dtypes in dtypes_of(op, capabilities):
            yield OpCase(op, variant, sizes, attrs, dtypes, seed=seed, **fields)


def _first(wanted: str, declared: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(declared, key=lambda name: name != wanted))
