"""What one file of `quire.ops` declares: the op's rules, its numpy definition, and how the kit looks at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from quire.graph.ir import Axis, Graph, Node
from quire.graph.op_spec import OpSpec
from quire.ops.kit import OpKit


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run knows beyond a node.

    Attributes:
        axes: of the model. rank, world_size: tensor parallelism.
        act_dtype: of the run. max_model_len: no position reaches it.
    """

    node: Node
    graph: Graph
    axes: Mapping[str, Axis]
    rank: int
    world_size: int
    act_dtype: np.dtype
    max_model_len: int


def _nothing(_: RunContext) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op of the neutral set, whole.

    Attributes:
        spec: operands, attributes, features, shape, cost, tolerance: what the graph and its passes need.
        reference: the definition, in numpy: `reference(*inputs, *weights, **attributes)`. Its docstring gives formula,
            shapes, dtypes and source. It computes in float32, rounds where the docstring says, and gives a row the
            same bits in every batch.
        run_keywords: keywords of `reference` that come from the run. They take the place of the attributes in
            `replaced`.
        step_keywords: keyword of `reference` -> array of the step; "{group}" stands for the cache operand's KV group.
        kit: how the conformance kit looks at the op.
    """

    spec: OpSpec
    reference: Callable[..., Any]
    kit: OpKit
    run_keywords: Callable[[RunContext], dict[str, Any]] = _nothing
    replaced: frozenset[str] = frozenset()
    step_keywords: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> str:
        return self.spec.name
