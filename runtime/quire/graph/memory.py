"""Where activations live: one arena, planned by liveness before anything is loaded.

The parts run on one timeline: embed, each *distinct* layer graph once, the heads. A storage is alive from
the node that writes it to the last node that reads it; boundary values (`hidden`, ...) are alive between the
parts that make and take them and have one place each, the same for all layers. Views (`split`, `reshape`)
alias their base with its row stride; an op writes over an operand that dies there where its `in_place` rule
allows; scratch of a node (`workspace`) is alive during that node only. Places are then found first for the
largest storage: the lowest offset that no storage alive at the same time covers.

Offsets are those of the largest step: plan with the limits of T, S and L, run with the step's own sizes. The
head runs in slices, so L is `max_logits_rows`. A head never writes over its inputs, so slices can follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from quire.errors import InternalError
from quire.graph.ir import Graph, Node, ValueDtype
from quire.graph.op_table import OPS
from quire.graph.shapes import concrete
from quire.graph.storage import Storage, assign_storage
from quire.graph.trace import node_args
from quire.graph.value_dtypes import element_bytes

ACT_F32_BYTES: Mapping[ValueDtype, int] = element_bytes(4)
"""Bytes per element where activations are held in float32."""

WorkspaceRule = Callable[[Graph, Node], int]
"""Scratch bytes of a node; the default evaluates the op's own rule."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies.

    Attributes:
        offset_bytes: of its first element, from the start of the arena (or of the caller's array `external`).
        base: id of the value that owns the storage, in the same graph; the value itself unless it is an alias.
        element_offset: elements between the base's first element and this value's.
        row_stride: elements between rows (dimension 0) at the planned sizes; inner dimensions are contiguous.
        is_view: made by a view op without any work.
        external: boundary name whose array the caller keeps; "" = in the arena.
    """

    offset_bytes: int
    base: int
    element_offset: int
    row_stride: int
    is_view: bool
    external: str = ""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """Places of one graph.

    Attributes:
        places: value id -> Place, for every value but caches.
        workspaces: node index -> (offset in the arena, bytes).
        copies: (value id, boundary name): outputs that could not be made in the fixed place of their name, because
            what the name held was still being read; the executor copies them there after the last node.
    """

    places: Mapping[int, Place]
    workspaces: Mapping[int, tuple[int, int]]
    copies: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class ArenaPlan:
    """Places of all graphs.

    Attributes:
        total_bytes: size of the arena. peak_bytes: most bytes alive at one time; total_bytes cannot be less.
        graphs: one for each graph given, in order; equal graphs share one object.
        boundary: boundary name -> (offset, bytes) of its fixed place; without external names and caches.
    """

    total_bytes: int
    peak_bytes: int
    graphs: tuple[GraphPlan, ...]
    boundary: Mapping[str, tuple[int, int]]


@dataclass(slots=True)
class _Block:
    """Bytes that are alive over closed intervals of the timeline, placed at `offset`."""

    size: int
    spans: list[tuple[int, int]] = field(default_factory=list)
    offset: int = -1

    def is_alive_with(self, other: _Block) -> bool:
        return any(a <= d and c <= b for a, b in self.spans for c, d in other.spans)


@dataclass(slots=True)
class _Draft:
    """A graph between assignment of storage and placement."""

    graph: Graph
    storage: Storage
    start: int  # the moment before its first node
    blocks: dict[int, _Block] = field(default_factory=dict)  # root value id -> block
    workspaces: dict[int, _Block] = field(default_factory=dict)  # node index -> block
    copies: list[tuple[int, str]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The moment after its last node."""
        return self.moment(len(self.graph.nodes))

    def moment(self, index: int) -> int:
        """The moment of a node on the timeline; -1 = before the first."""
        return self.start + 1 + index

    def has(self, name: str) -> bool:
        return name in dict(self.graph.inputs) or name in dict(self.graph.outputs)

    def spans(self, name: str) -> list[tuple[int, int]]:
        """When, during this graph, a boundary name that is alive around it holds something."""
        taken, given = dict(self.graph.inputs).get(name), dict(self.graph.outputs).get(name)
        if given is None:
            return [(self.start, self.end)]
        copied = (given, name) in self.copies
        first = len(self.graph.nodes) if copied else self.storage.lifetimes[self.storage.roots[given]][0]
        spans = [(self.moment(first), self.end)]
        if taken is not None:
            spans.append((self.start, self.moment(self.storage.lifetimes[taken][1])))
        return spans


def plan_arena(
    graphs: Sequence[Graph],
    sizes: Mapping[str, int],
    *,
    dtype_bytes: Mapping[ValueDtype, int] = ACT_F32_BYTES,
    alignment: int = 64,
    external: frozenset[str] = frozenset(),
    workspace: WorkspaceRule | None = None,
    in_place: bool = True,
) -> ArenaPlan:
    """Places for every value of a model's graphs.

    Args:
        graphs: in execution order, as `[part.graph for part in model.parts()]`.
        sizes: every axis, and the largest T, S and L of a step.
        dtype_bytes: bytes per element of each value dtype.
        alignment: of every storage that is not a view, in bytes.
        external: boundary names whose arrays the caller keeps (token_ids, logits, ...).
        workspace: scratch of a node on this backend, in bytes; None = the op's declared rule.
        in_place: False keeps every result out of its operands' storage (for kernels that cannot).
    """
    rule = workspace or (lambda graph, node: OPS[node.op].workspace(node_args(graph, node)).evaluate(sizes))
    timeline = _Timeline(sizes, dtype_bytes, alignment, external)
    drafts: dict[tuple[object, ...], _Draft] = {}
    signatures = [graph.signature() for graph in graphs]
    for graph, signature in zip(graphs, signatures, strict=True):
        if signature not in drafts:
            drafts[signature] = timeline.draft(graph, assign_storage(graph, sizes, in_place=in_place), rule)
    timeline.keep_boundaries_alive([drafts[signature] for signature in signatures])
    blocks = [*timeline.boundary.values()]
    for draft in drafts.values():
        blocks += [*draft.blocks.values(), *draft.workspaces.values()]
    blocks = list({id(block): block for block in blocks}.values())
    total = _place(blocks)
    plans = {signature: timeline.finish(draft) for signature, draft in drafts.items()}
    boundary = {name: (block.offset, block.size) for name, block in timeline.boundary.items()}
    return ArenaPlan(total, _peak(blocks), tuple(plans[signature] for signature in signatures), boundary)


class _Timeline:
    """Lays the distinct graphs one after another and keeps the boundary values' blocks."""

    def __init__(
        self, sizes: Mapping[str, int], dtype_bytes: Mapping[ValueDtype, int], alignment: int, external: frozenset[str]
    ) -> None:
        self._sizes, self._dtype_bytes, self._alignment, self._external = sizes, dtype_bytes, alignment, external
        self._now = 0
        self.boundary: dict[str, _Block] = {}

    def draft(self, graph: Graph, storage: Storage, workspace: WorkspaceRule) -> _Draft:
        draft = _Draft(graph, storage, self._now)
        self._now = draft.end + 1
        fixed = self._fixed_roots(draft)
        for root, (first, last) in storage.lifetimes.items():
            name = fixed.get(root)
            if name is None:
                draft.blocks[root] = _Block(self._bytes(graph, root), [(draft.moment(first), draft.moment(last))])
            elif name not in self._external:
                draft.blocks[root] = self._boundary_block(name, graph, root)
        for value, name in draft.copies:
            if name not in self._external:
                self._boundary_block(name, graph, value)
        for index, node in enumerate(graph.nodes):
            if num_bytes := workspace(graph, node):
                moment = draft.moment(index)
                draft.workspaces[index] = _Block(self._round_up(num_bytes), [(moment, moment)])
        return draft

    def _boundary_block(self, name: str, graph: Graph, value: int) -> _Block:
        block = self.boundary.setdefault(name, _Block(0))
        block.size = max(block.size, self._bytes(graph, value))
        return block

    def _fixed_roots(self, draft: _Draft) -> dict[int, str]:
        """Root value id -> boundary name whose fixed place it takes; notes the copies of outputs that cannot."""
        storage, fixed, holds = draft.storage, dict[int, str](), dict[str, list[int]]()
        for name, value in draft.graph.inputs:
            if value in storage.roots:
                fixed[value] = name
                holds.setdefault(name, []).append(value)
        for name, value in draft.graph.outputs:
            if value not in storage.roots:
                continue
            root = storage.roots[value]
            first = storage.lifetimes[root][0]
            if fixed.get(root) == name and storage.is_plain(value):
                continue
            free = all(storage.lifetimes[other][1] < first for other in holds.get(name, ()))
            if root not in fixed and free and storage.is_plain(value):
                fixed[root] = name
                holds.setdefault(name, []).append(root)
            else:
                draft.copies.append((value, name))
        held_by = {value: fixed.get(storage.roots[value], "") for value, _ in draft.copies}
        draft.copies = _ordered_copies(draft.copies, held_by)
        return fixed

    def keep_boundaries_alive(self, drafts: Sequence[_Draft]) -> None:
        """Sets the spans of the boundary blocks: from the first part that has a name to the last, in execution order.

        An input from outside is written before the first part. A graph used again later (alternating layers)
        stands once in the timeline and must find alive what any of its uses needs.
        """
        for name, block in self.boundary.items():
            having = [i for i, draft in enumerate(drafts) if draft.has(name)]
            made = any(name in dict(draft.graph.outputs) for draft in drafts)
            spans = {span for draft in drafts[having[0] if made else 0 : having[-1] + 1] for span in draft.spans(name)}
            block.spans = sorted(spans)

    def finish(self, draft: _Draft) -> GraphPlan:
        storage, names = draft.storage, {value: name for name, value in draft.graph.inputs}
        names |= {
            storage.roots[value]: name
            for name, value in draft.graph.outputs
            if value in storage.roots and (value, name) not in draft.copies
        }
        places = {}
        for value, root in storage.roots.items():
            layout = storage.layouts[value]
            block = draft.blocks.get(root)
            skipped = layout.element_offset * self._dtype_bytes[draft.graph.values[value].dtype]
            offset = (block.offset if block else 0) + skipped
            places[value] = Place(
                offset, root, layout.element_offset, layout.row_stride, layout.is_view, "" if block else names[root]
            )
        workspaces = {index: (block.offset, block.size) for index, block in draft.workspaces.items()}
        return GraphPlan(places, workspaces, tuple(draft.copies))

    def _bytes(self, graph: Graph, value: int) -> int:
        found = graph.values[value]
        return self._round_up(prod(concrete(found.shape, self._sizes)) * self._dtype_bytes[found.dtype])

    def _round_up(self, num_bytes: int) -> int:
        return -(-num_bytes // self._alignment) * self._alignment


def _ordered_copies(copies: Sequence[tuple[int, str]], held_by: Mapping[int, str]) -> list[tuple[int, str]]:
    """The copies in an order in which none overwrites the place (`held_by`) that a later one reads."""
    waiting, ordered = list(copies), list[tuple[int, str]]()
    while waiting:
        safe = [copy for copy in waiting if all(held_by[other[0]] != copy[1] for other in waiting if other != copy)]
        if not safe:
            raise InternalError(
                f"boundary values {', '.join(sorted(name for _, name in waiting))} change places",
                because="each would have to be copied over the other",
            )
        ordered.append(safe[0])
        waiting.remove(safe[0])
    return ordered


def _place(blocks: Sequence[_Block]) -> int:
    """Gives every block an offset, largest first, and returns the end of the highest."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.spans)):
        neighbours = sorted((other for other in placed if block.is_alive_with(other)), key=lambda b: b.offset)
        offset = 0
        for other in neighbours:
            if offset + block.size <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        block.offset = offset
        placed.append(block)
    return max((block.offset + block.size for block in placed), default=0)


def _peak(blocks: Sequence[_Block]) -> int:
    moments = {start for block in blocks for start, _ in block.spans}
    return max((sum(b.size for b in blocks if b.is_alive_with(_Block(0, [(m, m)]))) for m in moments), default=0)
