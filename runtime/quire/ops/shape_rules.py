"""Shape rules that several ops share."""

from __future__ import annotations

from quire.graph.ir import Value
from quire.graph.op_spec import OpArgs, Outputs, shape_error
from quire.graph.shapes import Dim


def no_flops(_: OpArgs) -> Dim:
    """For ops that only move elements."""
    return Dim.of(0)


def present(args: OpArgs, index: int) -> Value:
    """Input `index`, which is never absent."""
    value = args.inputs[index]
    assert value is not None
    return value


def like_input(args: OpArgs) -> Outputs:
    """Input 0's shape in the activation dtype."""
    return ((args.shape(0), "act"),)


def same_as_input(args: OpArgs) -> Outputs:
    """Input 0's shape and dtype."""
    return ((args.shape(0), present(args, 0).dtype),)


def check_vectors(op: str, args: OpArgs) -> None:
    """Each weight is as long as a row. Raises ModelError."""
    x = args.shape(0)
    for weight in args.weights:
        if weight is not None and weight.shape != x[-1:]:
            raise shape_error(op, f"weight {weight.name} is {weight.shape}, the last dimension is {x[-1]}")


def check_equal(op: str, args: OpArgs, message: str) -> None:
    """Inputs 0 and 1 have one shape; `message` is formatted with both. Raises ModelError."""
    if args.shape(0) != args.shape(1):
        raise shape_error(op, message.format(args.shape(0), args.shape(1)))
