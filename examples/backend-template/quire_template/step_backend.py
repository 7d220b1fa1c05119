"""The device `template_step`: the whole contract, for a compiler, a vendor's SDK or a remote service.

What such devices have in common is Quire's `StepExecutor`: steps in a few fixed shapes (a compiler compiles one program
for each), a trash block for padding to write to, and a queue of steps, so that the engine prepares the next one while
this one runs. The "program" here is the graph, run node by node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device import (
    CacheHandle,
    Capabilities,
    DeviceReport,
    Executor,
    ExecutorPlan,
    Kernel,
    LoadProgress,
    MemoryReport,
    OptionSpec,
    PaddedStep,
    PoolArray,
    StepBuckets,
    StepContext,
    StepExecutor,
    WeightSource,
    WeightStream,
    hookimpl,
    numpy_dtype,
)
from quire.graph.interpret import PartRunner
from quire.graph.ir import Node, Part
from quire_template.host_memory import host_memory
from quire_template.kernels import KERNELS, paged_attention

NAME = "template_step"

QUIRE_CONTRACT = (1, 2)

QUIRE_CONFORMANCE_GAPS: dict[str, str] = {}

CAPABILITIES = Capabilities(
    contract=QUIRE_CONTRACT,
    act_dtypes=("float32",),
    weight_dtypes=("float32",),
    kv_dtypes=("float32",),
    block_sizes=(16, 32),
    ops=frozenset(KERNELS) | {"cache_write", "paged_attention"},
    default_num_batched_tokens=512,
    default_num_seqs=32,
    default_memory_utilization=0.5,
    shares_host_memory=True,
    async_depth=2,
    row_determinism="run_to_run",
    read_write_blocks=True,
)


class TemplateExecutor(StepExecutor):
    """`StepExecutor` gives steps in fixed shapes, pools, copies, sampling and a queue; here is what runs them.

    Attributes:
        shapes: (tokens, sequences, logits rows) of every step so far: what a compiler would have had to compile.
    """

    def __init__(self, plan: ExecutorPlan) -> None:
        buckets = StepBuckets.of(plan, tokens=16, seqs=2, blocks=4, logits=2, growth=2)
        super().__init__(NAME, plan, CAPABILITIES, buckets)
        self.shapes: set[tuple[int, int, int]] = set()
        self._runners: dict[str, PartRunner] = {}

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Every weight once, however many parts read it (a tied embedding is one)."""
        num_bytes = 0
        bound: dict[int, dict[str, np.ndarray]] = {id(part): {} for part in self.plan.model.parts()}
        for planned, reader in WeightStream(self.plan, weights, progress):
            held = np.array(reader.array(), np.float32, order="C")
            num_bytes += held.nbytes
            for use in planned.uses:
                bound[id(use.part)][use.name] = held
        for part in self.plan.model.parts():
            kernels = [_kernel(node, self.plan) for node in part.graph.nodes]
            self._runners[part.prefix] = PartRunner(part, kernels, bound[id(part)])
        return MemoryReport(
            bytes_by_purpose={"weights": num_bytes},
            available_bytes=host_memory()[1],
            placement=tuple(sorted({(node.op, NAME) for part in self.plan.model.parts() for node in part.graph.nodes})),
        )

    def create_pool(self, arrays: Mapping[str, PoolArray]) -> dict[str, np.ndarray]:
        """Zeros of the device; a compiler's runtime would bind them to its programs."""
        return {name: np.zeros(array.shape, numpy_dtype(array.dtype)) for name, array in arrays.items()}

    def run_trunk(self, step: PaddedStep) -> dict[str, Any]:
        """The "program" is the graph, run node by node: look up by `step.shape` what you have compiled."""
        self.shapes.add((step.shape.tokens, step.shape.seqs, step.shape.logits))
        environment = step.environment()
        for part in (self.plan.model.embed, *self.plan.model.layers):
            environment |= self._run(part, environment, step)
        return environment

    def run_head(self, trunk: dict[str, Any], step: PaddedStep, rows: np.ndarray) -> np.ndarray:
        """Another program: the head runs once for each slice of rows."""
        return self._run(self.plan.model.heads["logits"], {**trunk, "logits_indices": rows}, step)["logits"]

    def free(self) -> None:
        """A real device would give back its queue, its programs and its buffers."""
        self._runners = {}

    def _run(self, part: Part, environment: Mapping[str, Any], step: PaddedStep) -> dict[str, Any]:
        caches = {name: self.cache(ref) for name, ref in part.caches.items()}
        outputs = self._runners[part.prefix]({**environment, **caches}, step.context)
        return {name: value for name, value in outputs.items() if name not in caches}


def _kernel(node: Node, plan: ExecutorPlan) -> Kernel:
    if node.op == "cache_write":
        return _write_to_cache
    return paged_attention(node, _gather) if node.op == "paged_attention" else KERNELS[node.op](node, plan)


def _write_to_cache(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[CacheHandle]:
    """Every slot is valid: those of padding, and of blocks that are not resident, lie in the trash block."""
    cache, *rows = inputs
    blocks, offsets = np.divmod(context.device[f"{cache.group}.slots"], context.block_size)
    for name, values in zip(("k", "v"), rows, strict=True):
        cache.arrays[name][blocks, offsets] = values
    return (cache,)


def _gather(cache: CacheHandle, block_ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k, v = (cache.arrays[name][block_ids, offsets].swapaxes(0, 1) for name in ("k", "v"))
    return k, v


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Is the device here?"""
    total, free = host_memory()
    return DeviceReport(
        available=True,
        name="numpy template, step level",
        num_devices=1,
        total_memory_bytes=total,
        free_memory_bytes=free,
        driver=f"numpy {np.__version__}",
        priority=-201,
    )


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What it can do."""
    return CAPABILITIES


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """Raises BackendError for a plan that the capabilities do not cover, or an op that is missing."""
    return TemplateExecutor(plan)


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """`OptionSpec`s of what a user may set; Quire refuses all else, and `quire devices NAME` lists them. Here: none."""
    return ()
