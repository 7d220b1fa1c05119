"""The device under test, and the reference beside it: both as executors that are loaded and have a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from quire.device.capabilities import Capabilities, DeviceReport
from quire.device.contract import Executor, ExecutorPlan, KVPlan, MemoryReport, WeightSource
from quire.device.graph_executor import GraphExecutor
from quire.device.plugin import Plugin
from quire.device.registry import resolve_device
from quire.errors import ConfigError
from quire.graph.ir import ModelGraph
from quire.graph.passes import optimize
from quire.reference.device import ReferenceLibrary
from quire.testing.conform.step_driver import StepDriver

REFERENCE_BLOCK_SIZE = 16
MIN_STEP_TOKENS, MIN_STEP_SEQS = 66, 4
"""The largest step of any case."""


@dataclass(frozen=True, slots=True)
class Dtypes:
    """The dtypes of a run."""

    act: str
    weight: str
    kv: str

    def __str__(self) -> str:
        return f"act={self.act},weight={self.weight},kv={self.kv}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A device under test.

    Attributes:
        name: value of `--device`. package: the distribution it came from. options: `--device-option` pairs.
        gaps: case pattern -> reason, declared by the plugin's `QUIRE_CONFORMANCE_GAPS`.
    """

    name: str
    plugin: Plugin = field(repr=False)
    report: DeviceReport
    capabilities: Capabilities
    options: Mapping[str, str] = field(default_factory=dict)
    package: str = ""

    @property
    def gaps(self) -> Mapping[str, str]:
        return self.plugin.conformance_gaps

    def default_dtypes(self) -> Dtypes:
        """float32 where it is declared, since faults show best there, else what the device prefers."""
        declared = self.capabilities
        act = _preferred("float32", declared.act_dtypes)
        return Dtypes(act, _preferred(act, declared.weight_dtypes), _preferred(act, declared.kv_dtypes))

    def block_size(self) -> int:
        """16 where it is declared, else the smallest: short lines then still have several blocks."""
        sizes = self.capabilities.block_sizes
        return REFERENCE_BLOCK_SIZE if REFERENCE_BLOCK_SIZE in sizes else min(sizes)

    def plan(self, model: ModelGraph, dtypes: Dtypes, *, as_written: bool = False, **limits: Any) -> ExecutorPlan:
        """A small plan that returns logits, through the passes the device declares unless `as_written`."""
        most_tokens = self.capabilities.max_num_batched_tokens or 128
        most_seqs = self.capabilities.max_num_seqs or 8
        if most_tokens < MIN_STEP_TOKENS or most_seqs < MIN_STEP_SEQS:
            raise ConfigError(
                f"device {self.name} takes {most_tokens} tokens of {most_seqs} sequences in a step",
                because=f"the kit's steps have up to {MIN_STEP_TOKENS} tokens of {MIN_STEP_SEQS}",
            )
        if not as_written:
            model = optimize(model, self.capabilities.fused_ops)
        plan = ExecutorPlan(
            model=model,
            weight_dtype=dtypes.weight,
            act_dtype=dtypes.act,
            kv_dtype=dtypes.kv,
            block_size=self.block_size(),
            max_model_len=128,
            max_num_batched_tokens=min(128, most_tokens),
            max_num_seqs=min(8, most_seqs),
            max_logits_rows=min(128, most_tokens),
            return_logits=True,
            strict=True,
            options=self.options,
        )
        return replace(plan, **limits)

    def op_plan(self, model: ModelGraph, dtypes: Dtypes) -> ExecutorPlan:
        """A plan for the model around one op: strict, unless ops around it are not declared.

        So a backend of one op can be checked; the others then run on the reference, where the executor allows it.
        """
        used = {node.op for part in model.parts() for node in part.graph.nodes}
        declared = self.capabilities.ops | self.capabilities.fused_ops
        return self.plan(model, dtypes, as_written=True, strict=used <= declared)

    def create(self, plan: ExecutorPlan) -> Executor:
        """An executor of the plugin. Raises what its hook raises, as the registry passes it on."""
        return self.plugin.create_executor(self.name, plan)

    @contextmanager
    def driver(
        self,
        plan: ExecutorPlan,
        weights: WeightSource,
        *,
        num_blocks: int | None = None,
        seed: int = 0,
        poison: bool = True,
    ) -> Iterator[StepDriver]:
        """The device loaded, with a cache (by default of some 1000 tokens), behind a driver; closed at the end."""
        num_blocks = num_blocks or max(8, 1024 // plan.block_size)
        executor = self.create(plan)
        try:
            memory = executor.load(weights, lambda done, total: None)
            executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys(_pools(plan.model), num_blocks)))
            yield StepDriver(
                executor, plan, num_blocks, memory, seed=seed, poison=poison and self.capabilities.read_write_blocks
            )
        finally:
            executor.close()


@contextmanager
def reference_driver(plan: ExecutorPlan, weights: WeightSource, *, num_blocks: int = 64) -> Iterator[StepDriver]:
    """The reference in the plan's dtypes; fresh pages hold NaN there, so that a driver's mistakes show too."""
    plan = replace(plan, block_size=REFERENCE_BLOCK_SIZE, options={})
    executor = GraphExecutor(ReferenceLibrary(), plan)
    memory: MemoryReport = executor.load(weights, lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys(_pools(plan.model), num_blocks)))
    yield StepDriver(executor, plan, num_blocks, memory, poison=True)
    executor.close()


def subject_of(device: str, options: Mapping[str, str] | None = None) -> Subject:
    """The installed device called `device`. Raises as `resolve_device` does when it cannot be used."""
    backend = resolve_device(device, options)
    return Subject(
        backend.name,
        backend.plugin,
        backend.report,
        backend.capabilities,
        backend.options,
        f"{backend.package} {backend.version}".strip(),
    )


def subject_of_plugin(name: str, plugin: Plugin, options: Mapping[str, str] | None = None) -> Subject:
    """A plugin that is not installed, for tests of a backend before it is packaged."""
    options = dict(options or {})
    return Subject(name, plugin, plugin.probe(name, options), plugin.capabilities(name, options), options)


def _pools(model: ModelGraph) -> set[str]:
    return {group.pool for group in model.kv_groups.values()}


def _preferred(wanted: str, declared: tuple[str, ...]) -> str:
    return wanted if wanted in declared else declared[0]
