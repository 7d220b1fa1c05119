"""Which values of a graph share memory: views of a base, and results written over an operand.

Every value but a cache has a root, the value whose storage it lies in. Layouts hold at any step size, because
row strides depend on inner dimensions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from quire.graph.ir import Graph, Node
from quire.graph.op_table import OPS
from quire.graph.shapes import concrete


@dataclass(frozen=True, slots=True)
class Layout:
    """A value inside its root, in elements: offset of its first, elements used per row, distance between rows."""

    element_offset: int
    row_length: int
    row_stride: int
    is_view: bool = False

    @property
    def is_contiguous(self) -> bool:
        return self.row_length == self.row_stride

    def overlaps(self, other: Layout) -> bool:
        """Whether two values of one root share elements; True where it cannot be told by columns."""
        if self.row_stride != other.row_stride:
            return True
        begin, other_begin = self.element_offset % self.row_stride, other.element_offset % self.row_stride
        return begin < other_begin + other.row_length and other_begin < begin + self.row_length


@dataclass(slots=True)
class Storage:
    """Storage of one graph.

    Attributes:
        roots: value id -> id of its root. layouts: value id -> Layout.
        lifetimes: root -> (index of the node that first writes it, of the last that reads it); -1 = before the
            first node, number of nodes = after the last one.
    """

    roots: dict[int, int] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    lifetimes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def is_plain(self, value: int) -> bool:
        """Whether the value fills its root's storage from the start without gaps."""
        layout = self.layouts[value]
        return layout.element_offset == 0 and layout.is_contiguous


def assign_storage(graph: Graph, sizes: Mapping[str, int], *, in_place: bool = True) -> Storage:
    """Roots, layouts and lifetimes of a graph's values.

    An input is overwritten only where the graph gives an output of the same name: other graphs, or the next
    slice of the same head, still need it.

    Args:
        sizes: of axes and step symbols.
        in_place: allow results over operands, as the ops' `in_place` rules say.
    """
    return _Assignment(graph, sizes, in_place).run()


class _Assignment:
    def __init__(self, graph: Graph, sizes: Mapping[str, int], in_place: bool) -> None:
        self._graph, self._in_place = graph, in_place
        self._shapes = [concrete(value.shape, sizes) for value in graph.values]
        self._last_use = _last_uses(graph)
        outputs = {name for name, _ in graph.outputs}
        self._inputs = {value for _, value in graph.inputs}
        self._pinned = {value for name, value in graph.inputs if name not in outputs}
        self._members: dict[int, list[int]] = {}
        self._storage = Storage()

    def run(self) -> Storage:
        for value in self._inputs:
            self._own(value, -1)
        for index, node in enumerate(self._graph.nodes):
            reused = self._reused_operands(index, node) if self._in_place else {}
            for position, value in enumerate(node.outputs):
                layout = self._view_layout(node, position) if OPS[node.op].view else None
                if layout is not None:
                    self._join(value, node.inputs[0], layout)
                elif position in reused:
                    operand = reused[position]
                    layout = self._storage.layouts[operand]
                    self._join(value, operand, Layout(layout.element_offset, layout.row_length, layout.row_stride))
                else:
                    self._own(value, index)
        for root, members in self._members.items():
            first, _ = self._storage.lifetimes[root]
            self._storage.lifetimes[root] = (first, max(max(self._last_use[v] for v in members), first))
        return self._storage

    def _own(self, value: int, index: int) -> None:
        if self._graph.values[value].dtype == "cache":
            return
        row_length = prod(self._shapes[value][1:])
        self._storage.roots[value] = value
        self._storage.layouts[value] = Layout(0, row_length, row_length)
        self._storage.lifetimes[value] = (index, index)
        self._members[value] = [value]

    def _join(self, value: int, other: int, layout: Layout) -> None:
        root = self._storage.roots[other]
        self._storage.roots[value], self._storage.layouts[value] = root, layout
        self._members[root].append(value)

    def _view_layout(self, node: Node, position: int) -> Layout | None:
        """The layout of a view op's result inside its base, or None where it needs elements moved."""
        base, result = node.inputs[0], self._shapes[node.outputs[position]]
        found, shape, row_length = self._storage.layouts[base], self._shapes[base], prod(result[1:])
        if node.op == "reshape":
            if found.is_contiguous:
                return Layout(found.element_offset, row_length, row_length, is_view=True)
            if shape[:1] == result[:1]:
                return Layout(found.element_offset, row_length, found.row_stride, is_view=True)
            return None
        axis = node.attr("axis") % len(shape)
        if axis == 0 or prod(shape[1:axis]) != 1:
            return None
        before = sum(self._shapes[value][axis] for value in node.outputs[:position])
        offset = found.element_offset + before * prod(shape[axis + 1 :])
        return Layout(offset, row_length, found.row_stride, is_view=True)

    def _reused_operands(self, index: int, node: Node) -> dict[int, int]:
        """Output position -> operand it is written over."""
        chosen: dict[int, int] = {}
        pairs = [(node.inputs[i], o) for i, o in OPS[node.op].in_place if node.inputs[i] >= 0]
        # The residual stream first: what comes in under a boundary name then goes out in its place.
        pairs.sort(key=lambda pair: self._storage.roots[pair[0]] not in self._inputs)
        for operand, position in pairs:
            is_taken = position in chosen or operand in chosen.values()
            if not is_taken and self._may_overwrite(index, node, operand, position):
                chosen[position] = operand
        return chosen

    def _may_overwrite(self, index: int, node: Node, operand: int, position: int) -> bool:
        result, storage, values = node.outputs[position], self._storage, self._graph.values
        root = storage.roots[operand]
        same_kind = self._shapes[operand] == self._shapes[result] and values[operand].dtype == values[result].dtype
        if not same_kind or root in self._pinned:
            return False
        layout = storage.layouts[operand]
        for member in self._members[root]:
            if member == operand or not layout.overlaps(storage.layouts[member]):
                continue
            if self._last_use[member] > index or member in node.inputs:
                return False
        return self._last_use[operand] <= index


def _last_uses(graph: Graph) -> dict[int, int]:
    last = {value.id: -1 for value in graph.values}
    for index, node in enumerate(graph.nodes):
        last.update((value, index) for value in (*node.inputs, *node.outputs) if value >= 0)
    last.update((value, len(graph.nodes)) for _, value in graph.outputs)
    return last
