"""A node's attributes with the sizes of a plan in them, for libraries that call a function per node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import InternalError
from quire.graph.ir import Node
from quire.graph.shapes import Dim, Shape


def bound_attrs(node: Node, axis_sizes: Mapping[str, int]) -> dict[str, Any]:
    """The attributes by name, Dims as ints; in a shape the one size that depends on the step (T, S, L) is -1.

    Raises: InternalError when more than one size of a shape depends on the step.
    """
    attrs: dict[str, Any] = {}
    for name, value in node.attrs:
        if isinstance(value, Dim):
            attrs[name] = value.evaluate(axis_sizes)
        elif isinstance(value, tuple) and any(isinstance(item, Dim) for item in value):
            attrs[name] = _sizes_with_one_free(node.op, tuple(Dim.of(item) for item in value), axis_sizes)
        else:
            attrs[name] = value
    return attrs


def _sizes_with_one_free(op: str, shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    free = [dim for dim in shape if dim.substitute(sizes).symbols]
    if len(free) > 1:
        raise InternalError(f"op {op}: more than one size of {shape} depends on the step")
    return tuple(-1 if dim in free else dim.evaluate(sizes) for dim in shape)
