"""What an op library may have beside `OpLibrary`, each method on its own; since contract 1.2.

A library without one of them is run as if this did nothing. `GraphExecutor` asks for them when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from quire.device.contract import ExecutorPlan, LikelyStep, OpLibrary, StepContext
from quire.device.step_buckets import StepBuckets
from quire.device.step_vector import StepLayout, StepShape
from quire.graph.ir import Part
from quire.sampling.batch import I32

PartKernel = Callable[[StepContext, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
"""kernel(context, environment, weights) -> the part's named outputs; a cache among them is returned as it came.

The environment holds every named input of the part, caches as `CacheHandle`; weights are by local name.
"""

RunStep = Callable[[Mapping[str, Any]], Any]
"""run(arrays) -> logits of a step, as a function of arrays of the device: those of `StepContext.device`, and
"token_ids", "logits_indices"."""


class PartLowering(Protocol):
    """Takes several nodes at once: a compiler of subgraphs, a layer written by hand."""

    def lower_part(self, part: Part, plan: ExecutorPlan) -> PartKernel | None:
        """A callable for the whole part, or None: then its nodes are lowered one by one."""


class StepBrackets(Protocol):
    """For frameworks that collect work and want to be told when a step's is complete."""

    def begin_step(self, context: StepContext) -> None:
        """Called before the step's first kernel."""

    def end_step(self, context: StepContext) -> None:
        """Called after its last one, before the last slice is fetched: flush here. Not called when a kernel raised."""


class Bucketed(Protocol):
    """For compilers, which want few shapes."""

    def step_buckets(self, plan: ExecutorPlan) -> StepBuckets:
        """The shapes that steps are padded to. Caches get one block more, the trash block that padding writes to;
        slots and tables then hold no -1."""


class StepPut(Protocol):
    """Takes a step's arrays in one copy."""

    def put_step(self, vector: I32, layout: StepLayout) -> Mapping[str, Any]:
        """The arrays that `layout` finds in the host's vector, on the device, by name."""


class Capture(Protocol):
    """For devices that replay a recorded step; needs `step_buckets`."""

    def capture(self, shape: StepShape, run: RunStep) -> RunStep:
        """What stands in for `run` in every step of this shape. Copies, sampling and fed-back tokens lie outside."""


class WarmUp(Protocol):
    """Work that is better done before the first request: compiling, tuning."""

    def warmup(self, plan: ExecutorPlan, likely: Sequence[LikelyStep]) -> None:
        """Called after the caches were made, with the steps that will come, most likely first. Readiness is reported
        after it."""


class Closing(Protocol):
    """For contexts, queues and handles of a vendor."""

    def close(self) -> None:
        """Frees what the library holds; called once, when its arrays are no longer used."""


@dataclass(frozen=True, slots=True)
class LibraryHooks:
    """The optional methods of one library, None where it has none."""

    lower_part: Callable[[Part, ExecutorPlan], PartKernel | None] | None
    begin_step: Callable[[StepContext], None] | None
    end_step: Callable[[StepContext], None] | None
    step_buckets: Callable[[ExecutorPlan], StepBuckets] | None
    put_step: Callable[[I32, StepLayout], Mapping[str, Any]] | None
    capture: Callable[[StepShape, RunStep], RunStep] | None
    warmup: Callable[[ExecutorPlan, Sequence[LikelyStep]], None] | None
    close: Callable[[], None] | None

    @staticmethod
    def of(library: OpLibrary) -> LibraryHooks:
        """Those that the library has."""
        return LibraryHooks(**{name: getattr(library, name, None) for name in LibraryHooks.__slots__})
