"""Which op runs where: lowers every node of a plan, and lends the reference where a library has no kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.device.contract import ExecutorPlan, Kernel, OpLibrary, StepContext
from quire.device.library_hooks import LibraryHooks, PartKernel
from quire.device.plan_check import can_be_lent
from quire.errors import BackendError
from quire.graph.interpret import PartRunner
from quire.graph.ir import Graph, Node, Part

REFERENCE_NAME = "reference"
"""Where an op is said to run in the placement table when the library has no kernel for it."""


@dataclass(frozen=True, slots=True)
class LoweredPart:
    """A part's kernels, one for each node.

    Attributes:
        device_weights: local names of the weights that the library's kernels take.
        host_weights: the weights of kernels lent by the reference: local name -> array, filled by `load_weights`.
        whole: the library's kernel of the whole part, where it has one; then there are no others.
    """

    part: Part
    kernels: tuple[Kernel, ...]
    device_weights: frozenset[str]
    host_weights: dict[str, np.ndarray | None]
    whole: PartKernel | None = None

    def runner(self, weights: Mapping[str, Any]) -> PartRunner | WholePartRunner:
        """The part, bound to what `LibraryWeights.of` gave."""
        if self.whole is None:
            return PartRunner(self.part, self.kernels, weights)
        return WholePartRunner(self.part, self.whole, weights)


@dataclass(frozen=True, slots=True)
class WholePartRunner:
    """As `PartRunner`, of a part that the library runs in one call."""

    part: Part
    kernel: PartKernel
    weights: Mapping[str, Any]

    def __call__(self, environment: Mapping[str, Any], context: StepContext) -> Mapping[str, Any]:
        """The part's named outputs. What the kernel raises comes out with a note that names the part."""
        try:
            return self.kernel(context, environment, self.weights)
        except Exception as error:
            error.add_note(f"part {self.part.prefix}")
            raise


@dataclass(frozen=True, slots=True)
class LoweredModel:
    """Lowered embed, layers and heads, and the placement table: (op, device name or "reference"), sorted by op."""

    embed: LoweredPart
    layers: tuple[LoweredPart, ...]
    heads: Mapping[str, LoweredPart]
    placement: tuple[tuple[str, str], ...]

    def parts(self) -> tuple[LoweredPart, ...]:
        return (self.embed, *self.layers, *self.heads.values())


def lower_model(library: OpLibrary, plan: ExecutorPlan) -> LoweredModel:
    """Every node of the plan's graph as a kernel.

    An op for which `library.lower` gives None runs on the reference: its operands are fetched to the host, its
    results put back on the device. Raises BackendError that lists those ops where `plan.strict` forbids that, and
    always where one takes a cache, whose arrays only the library understands, or a quantized weight.
    """
    lowering = _Lowering(library, plan)
    model = plan.model
    lowered = LoweredModel(
        embed=lowering.part(model.embed),
        layers=tuple(lowering.part(layer) for layer in model.layers),
        heads={name: lowering.part(head) for name, head in model.heads.items()},
        placement=tuple(sorted(lowering.placement)),
    )
    lowering.refuse()
    return lowered


class _Lowering:
    def __init__(self, library: OpLibrary, plan: ExecutorPlan) -> None:
        self._library, self._plan = library, plan
        self._lower_part = LibraryHooks.of(library).lower_part
        self.placement: set[tuple[str, str]] = set()
        self._impossible: set[str] = set()

    def part(self, part: Part) -> LoweredPart:
        whole = None if self._lower_part is None else self._lower_part(part, self._plan)
        if whole is None:
            return self._by_nodes(part)
        self.placement.update((node.op, self._library.name) for node in part.graph.nodes)
        return LoweredPart(part, (), frozenset(part.graph.weights), {}, whole)

    def _by_nodes(self, part: Part) -> LoweredPart:
        kernels: list[Kernel] = []
        host: dict[str, np.ndarray | None] = {}
        device: set[str] = set()
        for node in part.graph.nodes:
            kernel = self._library.lower(node, part.graph, self._plan)
            self.placement.add((node.op, REFERENCE_NAME if kernel is None else self._library.name))
            names = [name for name in node.weights if name]
            if kernel is None:
                host.update(dict.fromkeys(names))
                kernel = self._on_reference(node, part.graph, host)
            else:
                device.update(names)
            kernels.append(kernel)
        return LoweredPart(part, tuple(kernels), frozenset(device), host)

    def refuse(self) -> None:
        missing = sorted(op for op, where in self.placement if where == REFERENCE_NAME)
        if self._impossible:
            raise BackendError(
                f"device {self._library.name} does not implement {', '.join(sorted(self._impossible))}",
                because="the reference cannot stand in: it does not know the device's caches and quantized weights",
                hint="a newer version of the backend, or another --device",
            )
        if self._plan.strict and missing and self._library.name != REFERENCE_NAME:
            raise BackendError(
                f"device {self._library.name} does not implement {', '.join(missing)}",
                because="--strict-device forbids running them on the reference",
                hint="leave --strict-device out, or another --device",
            )

    def _on_reference(self, node: Node, graph: Graph, host_weights: Mapping[str, np.ndarray | None]) -> Kernel:
        from quire.reference.lowering import lower_reference  # here, since it imports this package's contract

        if not can_be_lent(node, graph):
            self._impossible.add(node.op)
        reference, library = lower_reference(node, graph, self._plan), self._library

        def kernel(context: StepContext, inputs: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, ...]:
            operands = tuple(None if value is None else library.get(value) for value in inputs)
            weights = tuple(host_weights[name] if name else None for name in node.weights)
            return tuple(library.put(np.ascontiguousarray(result)) for result in reference(context, operands, weights))

        return kernel
