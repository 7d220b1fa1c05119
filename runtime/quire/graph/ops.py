"""The names of the op set for plugins; the ops themselves are declared in `quire.ops`."""

from __future__ import annotations

from quire.graph.op_spec import REQUIRED
from quire.graph.op_table import OPS
from quire.ops import ACTIVATIONS, DECLARED

PLAIN_OPS = frozenset(name for name, op in DECLARED.items() if not op.spec.fused_from)
FUSED_OPS = frozenset(name for name, op in DECLARED.items() if op.spec.fused_from)
OP_FEATURES = frozenset(f"{name}.{feature}" for name, op in DECLARED.items() for feature in op.spec.features)
"""What `Capabilities.op_features` may name: operands and attributes that came after their op."""

__all__ = ["ACTIVATIONS", "FUSED_OPS", "OPS", "OP_FEATURES", "PLAIN_OPS", "REQUIRED"]
