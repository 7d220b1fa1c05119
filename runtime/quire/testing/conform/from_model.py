"""L2 cases in the shapes of a real model: what its graph asks of each op, read from config.json alone.

How an op's node becomes a case, each op's file in `quire.ops` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quire.models import build_model
from quire.ops import DECLARED
from quire.ops.kit import FoundCase, NodeOfModel
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.steps import step_dtypes
from quire.testing.conform.subject import Subject


def model_cases(subject: Subject, folder: Path, seed: int = 0) -> list[OpCase]:
    """One case for each distinct use of an op in the model, in the dtypes of L3. Raises ModelError as `build_model`."""
    spec = build_model(folder)
    found: dict[str, tuple[str, FoundCase]] = {}
    for part in spec.graph.parts():
        for node in part.graph.nodes:
            if (of_node := DECLARED[node.op].kit.of_node) is not None:
                use = node.op, of_node(NodeOfModel(node, part.graph, spec.graph))
                found.setdefault(repr(use), use)
    dtypes = step_dtypes(subject)
    return [
        OpCase(op, f"model_{_label(sizes, index)}", sizes, attrs, types, lines=((3, 2), (0, 1)), seed=seed)
        for index, (op, (sizes, attrs)) in enumerate(found.values())
        for types in dtypes
    ]


def _label(sizes: Mapping[str, int], index: int) -> str:
    return f"{index}_" + "_".join(f"{name}{size}" for name, size in sizes.items())
