"""Runs a part: its nodes in order, with one callable each, over an environment of named boundary values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quire.errors import InternalError
from quire.graph.ir import Graph, Part

NodeKernel = Callable[[Any, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
"""kernel(context, inputs, weights) -> outputs; absent optional operands are None."""


class PartRunner:
    """A part bound to its kernels and weights, ready to be run any number of times.

    A value is dropped after its last use, so that the arrays alive at any time are those that liveness counts.

    Args:
        part: what to run.
        kernels: one for each node of the part's graph, in order.
        weights: local weight name -> what the kernels take for it.
    """

    def __init__(self, part: Part, kernels: Sequence[NodeKernel], weights: Mapping[str, Any]) -> None:
        graph = part.graph
        if len(kernels) != len(graph.nodes):
            raise InternalError(f"part {part.prefix}: {len(graph.nodes)} nodes, {len(kernels)} kernels")
        self.part = part
        self._num_values = len(graph.values)
        self._steps = [
            (kernel, node.inputs, tuple(weights[name] if name else None for name in node.weights), node.outputs, dead)
            for kernel, node, dead in zip(kernels, graph.nodes, _last_uses(graph), strict=True)
        ]

    def __call__(self, environment: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """The part's named outputs.

        Args:
            environment: holds every named input of the part; others are ignored.
            context: handed to each kernel as it is.
        Raises: InternalError when an input is missing or a kernel returns another number of results than its node.
            What a kernel raises comes out as it is, with a note that names the part, the node and its op.
        """
        values: list[Any] = [None] * (self._num_values + 1)  # the spare last one is index -1: an absent operand
        for name, value_id in self.part.graph.inputs:
            if name not in environment:
                raise InternalError(
                    f"part {self.part.prefix} needs {name!r}",
                    because=f"the environment has {', '.join(sorted(environment))}",
                )
            values[value_id] = environment[name]
        position = -1
        try:
            for position, (kernel, inputs, weights, outputs, dead) in enumerate(self._steps):  # noqa: B007
                results = kernel(context, tuple([values[i] for i in inputs]), weights)
                if len(results) != len(outputs):
                    raise InternalError(f"{len(outputs)} results are declared, the kernel returned {len(results)}")
                for value_id, result in zip(outputs, results, strict=True):
                    values[value_id] = result
                for value_id in dead:
                    values[value_id] = None
        except Exception as error:
            error.add_note(f"part {self.part.prefix}, node {position} ({self.part.graph.nodes[position].op})")
            raise
        return {name: values[value_id] for name, value_id in self.part.graph.outputs}


def _last_uses(graph: Graph) -> list[tuple[int, ...]]:
    """Per node, the values nobody needs once it has run; part outputs are always needed."""
    last: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        for value_id in (*node.inputs, *node.outputs):
            if value_id >= 0:
                last[value_id] = position
    kept = {value_id for _, value_id in graph.outputs}
    dead: list[list[int]] = [[] for _ in graph.nodes]
    for value_id, position in last.items():
        if value_id not in kept:
            dead[position].append(value_id)
    return [tuple(ids) for ids in dead]
