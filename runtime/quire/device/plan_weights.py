"""The weights of a plan: which of its graph's weights are one and the same, and which nodes read each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from quire.device.contract import ExecutorPlan
from quire.device.weight_source import WeightPiece
from quire.errors import ModelError
from quire.graph.ir import Node, Part, Source, Weight
from quire.graph.shapes import concrete

WeightKey = tuple[Source, str, str]
"""What makes two weights one: source, scheme, and the dtype in which they are held."""


def weight_key(plan: ExecutorPlan, weight: Weight) -> WeightKey:
    """The key of a weight of the plan's graph."""
    return weight.source, weight.scheme, "float32" if weight.keep_f32 else plan.weight_dtype


@dataclass(frozen=True, slots=True)
class WeightUse:
    """A weight as an operand of a node: `operand` is its place in `node.weights`."""

    part: Part
    node: Node
    operand: int

    @property
    def name(self) -> str:
        """The weight's name in its part."""
        return self.node.weights[self.operand]


@dataclass(frozen=True, slots=True, eq=False)
class PlanWeight:
    """A weight to be held once, whatever the number of nodes that read it (a tied embedding has two).

    Attributes:
        weight: any of the graph's weights with this key, for `WeightSource`.
        dtype: in which it is held where its scheme is plain.
    """

    key: WeightKey
    weight: Weight
    shape: tuple[int, ...]
    dtype: str
    uses: tuple[WeightUse, ...]

    def matrices(self, pieces: Iterable[WeightPiece]) -> Iterator[list[WeightPiece]]:
        """The pieces of each matrix [rows, K] in turn: one of a weight [N, K], one an expert of a weight [E, N, K].

        Arrays come as [n, K]; nothing is copied. Raises ModelError when the pieces have other rows than the weight.
        """
        num_rows = self.shape[-2]
        found: list[WeightPiece] = []
        missing, complete = num_rows, 0
        for piece in _pieces_of_rows(pieces):
            start, stop = 0, piece.shape[0]
            while start < stop:
                end = min(start + missing, stop)
                found.append(piece if (start, end) == (0, stop) else _rows(piece, slice(start, end)))
                missing, start = missing - (end - start), end
                if not missing:
                    yield found
                    found, missing, complete = [], num_rows, complete + 1
        expected = int(np.prod(self.shape[:-2], dtype=np.int64))
        if found or complete != expected:
            raise ModelError(
                f"weight {self.weight.name} does not fit the model",
                because=f"it has {(complete + 1) * num_rows - missing} rows, expected {expected * num_rows}",
            )


def plan_weights(plan: ExecutorPlan) -> tuple[PlanWeight, ...]:
    """Every weight that a node reads, once, in the order in which the parts' nodes first do."""
    sizes = plan.model.axis_sizes()
    first: dict[WeightKey, Weight] = {}
    uses: dict[WeightKey, list[WeightUse]] = {}
    for part in plan.model.parts():
        for node in part.graph.nodes:
            for operand, name in enumerate(node.weights):
                if name:
                    key = weight_key(plan, part.graph.weights[name])
                    first.setdefault(key, part.graph.weights[name])
                    uses.setdefault(key, []).append(WeightUse(part, node, operand))
    return tuple(
        PlanWeight(key, weight, concrete(weight.shape, sizes), key[2], tuple(uses[key]))
        for key, weight in first.items()
    )


def _pieces_of_rows(pieces: Iterable[WeightPiece]) -> Iterator[WeightPiece]:
    """Pieces of two dimensions; an array of more is taken apart, since views cannot always be reshaped."""
    for piece in pieces:
        if not isinstance(piece, np.ndarray) or piece.ndim == 2:
            yield piece
        elif piece.ndim < 2:
            yield piece.reshape(1, -1)
        else:
            yield from _pieces_of_rows(piece)


def _rows(piece: WeightPiece, rows: slice) -> WeightPiece:
    return piece[rows] if isinstance(piece, np.ndarray) else piece.rows(rows)
