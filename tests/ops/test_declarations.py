"""Each op is declared whole, in a file of its name, and nothing else lists the ops."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import quire
from quire import reference
from quire.graph.op_spec import REQUIRED
from quire.graph.ops import ACTIVATIONS, FUSED_OPS, OP_FEATURES, OPS, PLAIN_OPS
from quire.ops import DECLARED
from quire.reference import REFERENCE

CORE = Path(quire.__file__).parent
SHARED = {"__init__", "activations", "collectives", "declaration", "kit", "kit_attention", "kit_experts", "kit_rows"}
SHARED |= {"kv_quantization", "rounding", "shape_rules"}


def test_each_op_has_a_file_of_its_name() -> None:
    files = {path.stem for path in (CORE / "ops").glob("*.py")} - SHARED
    assert files == set(DECLARED)


@pytest.mark.parametrize("op", sorted(DECLARED))
def test_an_op_is_declared_whole(op: str) -> None:
    declared = DECLARED[op]
    spec = declared.spec
    assert declared.reference.__name__ == op
    assert declared.reference.__doc__
    assert declared.kit.cases
    assert set(spec.tolerance) == {"float32", "float16", "bfloat16"}
    assert all(name in spec.attr_types for name, default in spec.attrs.items() if default is REQUIRED)
    named = {name.rstrip("?") for name in (*spec.inputs, *spec.weights, *spec.attrs)}
    assert set(spec.features) <= named
    variants = [variant for variant, *_ in declared.kit.cases]
    assert len(variants) == len(set(variants))


def test_old_names_give_the_same_ops() -> None:
    assert set(OPS) == set(DECLARED) == set(REFERENCE) == PLAIN_OPS | FUSED_OPS
    assert all(OPS[name] is op.spec for name, op in DECLARED.items())
    assert not PLAIN_OPS & FUSED_OPS
    assert "paged_attention.sinks" in OP_FEATURES
    assert "silu" in ACTIVATIONS
    assert reference.softcap is REFERENCE["softcap"]
    with pytest.raises(AttributeError, match="teleport"):
        _ = reference.teleport


@pytest.mark.parametrize("module", ["quire.graph.trace", "quire.graph.ops", "quire.graph.cost", "quire.ops"])
def test_the_table_is_full_whatever_is_imported_first(module: str) -> None:
    code = f"import {module}; from quire.graph.op_table import OPS; assert len(OPS) > 20; assert 'add' in OPS"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_file_of_the_core_lists_the_ops() -> None:
    """A list, set or dictionary of six ops or more, by their names."""
    lists = []
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            names = {item.value for item in items if isinstance(item, ast.Constant)}
            if len(names & set(DECLARED)) >= 6:
                lists.append(f"{path.relative_to(CORE)}:{node.lineno}")  # type: ignore[attr-defined]
    assert lists == []
