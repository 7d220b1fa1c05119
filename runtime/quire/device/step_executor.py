"""The base of executors that run a whole step as one program: a compiler's, a vendor's SDK, a remote service.

What such devices have in common is here: steps in a few fixed shapes, a trash block for padding to write to, pools of
blocks that groups share, copies, fed-back tokens, the head in slices, sampling, and a queue, so that the engine
prepares a step while the one before it runs. What differs is what a subclass writes: `load`, `create_pool`,
`run_trunk`, `run_head`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.device.backend_errors import backend_error
from quire.device.batch import StepBatch, StepResult
from quire.device.capabilities import Capabilities
from quire.device.contract import (
    CacheHandle,
    ExecutorPlan,
    KVPlan,
    LoadProgress,
    MemoryReport,
    StepContext,
    WeightSource,
)
from quire.device.plan_check import check_plan
from quire.device.sliced_sampling import SlicedSampler, step_result
from quire.device.step_buckets import StepBuckets, pad_to, slice_rows
from quire.device.step_context import step_context
from quire.device.step_line import PendingStep, StepLine, with_tokens
from quire.device.step_vector import StepShape
from quire.errors import BackendError, InternalError, QuireError
from quire.graph.ir import CacheRef, KVGroupSpec
from quire.graph.kv_arrays import held_arrays
from quire.graph.shapes import concrete
from quire.sampling.batch import F32, I32


@dataclass(frozen=True, slots=True)
class PoolArray:
    """An array of a pool: shape [layers, blocks + 1, block_size, *shape_per_token], dtype as `numpy_dtype` takes it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class PaddedStep:
    """A step in the shape of its bucket.

    Attributes:
        shape: sizes of the bucket; key what you compile on it.
        batch: every array padded to it; tokens are all known, and blocks that are not resident are the trash block.
        context: the arrays that kernels share (`StepContext.device`), as numpy arrays.
    """

    shape: StepShape
    batch: StepBatch
    context: StepContext

    def environment(self) -> dict[str, Any]:
        """What the part `embed` of the graph reads."""
        return {"token_ids": self.batch.token_ids, "positions": self.context.device["positions"]}


class StepExecutor(ABC):
    """An `Executor` whose subclass runs padded steps. Steps run in order, on one thread where `async_depth` > 1.

    What is its own has two underscores, so that no name of a subclass can meet it.

    Args:
        device: its name, for messages.
        buckets: the shapes that steps are padded to; None = `StepBuckets.of(plan)`.
    Raises: BackendError for a plan that the capabilities do not cover, or with an op that is not among them.
    """

    def __init__(
        self, device: str, plan: ExecutorPlan, capabilities: Capabilities, buckets: StepBuckets | None = None
    ) -> None:
        check_plan(plan, capabilities, device)
        self.capabilities = capabilities
        self.plan, self.device = plan, device
        self.__buckets = buckets or StepBuckets.of(plan)
        self.__pools: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self.__trash: dict[str, int] = {}
        self.__drawn = np.empty(0, np.int32)  # tokens of the step that ran last; none if it failed
        self.__line = StepLine(device, capabilities.async_depth, self.__start)
        self.__queue = ThreadPoolExecutor(1, thread_name_prefix=device) if capabilities.async_depth > 1 else None

    # ---- what a subclass writes -------------------------------------------------------------------------

    @abstractmethod
    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """As `Executor.load`."""

    @abstractmethod
    def create_pool(self, arrays: Mapping[str, PoolArray]) -> Mapping[str, Any]:
        """The pool's arrays on the device, by name.

        Content is arbitrary and must not leak before it is written. The last block is the trash block.
        """

    @abstractmethod
    def run_trunk(self, step: PaddedStep) -> Any:
        """Runs embed and layers, and writes k and v of the step's tokens to their slots; what `run_head` takes."""

    @abstractmethod
    def run_head(self, trunk: Any, step: PaddedStep, rows: I32) -> F32:
        """Logits float32 [len(rows), vocab] on the host, of token rows int32 [shape.logits]."""

    def copy_blocks(self, arrays: Mapping[str, Any], pairs: I32) -> None:
        """Copies blocks [n, 2] (source, destination) in every layer of a pool. No block is both."""
        for array in arrays.values():
            array[:, pairs[:, 1]] = array[:, pairs[:, 0]]

    def read_pages(self, arrays: Mapping[str, Any], block_ids: I32) -> Mapping[str, np.ndarray]:
        """Blocks of a group's layers on the host: array name -> [layers, n, block_size, *shape_per_token]."""
        return {name: np.asarray(array[:, block_ids]) for name, array in arrays.items()}

    def write_pages(self, arrays: Mapping[str, Any], block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_pages`."""
        for name, array in arrays.items():
            array[:, block_ids] = pages[name]

    @abstractmethod
    def free(self) -> None:
        """Frees what the subclass holds; called once, when nothing runs any more. The pools are dropped after it."""

    # ---- the contract -----------------------------------------------------------------------------------

    def allocate_kv(self, plan: KVPlan) -> None:
        """One pool for each set of groups that share block ids and have equal arrays, one block more for padding."""
        self.__line.refuse_closed()
        model, sizes = self.plan.model, self.plan.model.axis_sizes()
        self.__pools = {}
        for name, group in model.kv_groups.items():
            if group.pool not in plan.num_blocks:
                raise BackendError(f"KV group {name}: no number of blocks for its pool {group.pool!r}")
            num_blocks, key = plan.num_blocks[group.pool], _pool_key(group)
            self.__trash[name] = num_blocks
            if key in self.__pools:
                continue
            num_layers = max(other.layers for other in model.kv_groups.values() if _pool_key(other) == key)
            front = (num_layers, num_blocks + 1, self.plan.block_size)
            arrays = {
                array.name: PoolArray((*front, *concrete(array.shape, sizes)), array.dtype)
                for array in held_arrays(group, self.plan.kv_dtype)
            }
            try:
                self.__pools[key] = self.create_pool(arrays)
            except QuireError:
                raise
            except Exception as error:  # whatever an allocator raises
                raise backend_error(
                    error,
                    f"device {self.device} cannot allocate {num_blocks} KV blocks",
                    "fewer blocks: a smaller --max-model-len or --memory-utilization",
                ) from error

    def submit(self, batch: StepBatch) -> PendingStep:
        """Queues the step; its errors are raised by the result."""
        return self.__line.submit(batch)

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        arrays = self.cache_arrays(group)
        self.__line.finish_all()
        return {name: page.swapaxes(0, 1) for name, page in self.read_pages(arrays, block_ids).items()}

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`, behind every submitted step."""
        arrays = self.cache_arrays(group)
        self.__line.finish_all()
        self.write_pages(arrays, block_ids, {name: page.swapaxes(0, 1) for name, page in pages.items()})

    def close(self) -> None:
        """Drops steps that have not begun, waits for the one that runs, frees everything; safe to call twice."""
        if self.__line.is_closed:
            return
        self.__line.close()
        if self.__queue is not None:
            self.__queue.shutdown(wait=True, cancel_futures=True)
        self.free()
        self.__pools = {}

    # ---- for subclasses ---------------------------------------------------------------------------------

    def cache_arrays(self, group: str) -> Mapping[str, Any]:
        """A group's arrays [layers, blocks + 1, ...], by name."""
        self.__line.refuse_closed()
        spec = self.plan.model.kv_groups[group]
        if _pool_key(spec) not in self.__pools:
            raise InternalError("the KV cache is used before allocate_kv")
        return {name: array[: spec.layers] for name, array in self.__pools[_pool_key(spec)].items()}

    def cache(self, ref: CacheRef) -> CacheHandle:
        """A layer's cache as kernels take it."""
        return CacheHandle(ref.group, ref.slot, {n: a[ref.slot] for n, a in self.cache_arrays(ref.group).items()})

    # ---- one step ---------------------------------------------------------------------------------------

    def __start(self, batch: StepBatch, tokens: object) -> _QueuedStep:
        run: Future[StepResult]
        if self.__queue is not None:
            run = self.__queue.submit(self.__run, batch)
        else:
            run = Future()
            run.set_result(self.__run(batch))
        return _QueuedStep(run)

    def __run(self, batch: StepBatch) -> StepResult:
        """One step, exact arrays in and exact results out."""
        drawn, self.__drawn = self.__drawn, np.empty(0, np.int32)
        for group, pairs in batch.copies.items():
            if len(pairs):
                self.copy_blocks(self.cache_arrays(group), pairs)
        shape = self.__buckets.shape(batch)
        step = self.__padded(with_tokens(batch, drawn), shape)
        trunk = self.run_trunk(step)
        sampler = None if batch.sampling is None else SlicedSampler(batch.sampling)
        wanted = len(batch.logits_indices) if sampler is not None or self.plan.return_logits else 0
        kept: list[F32] = []
        for number in range(-(-wanted // shape.logits)):
            rows, count = slice_rows(batch, shape, number)
            logits = self.run_head(trunk, step, rows)[:count]
            if self.plan.return_logits:
                kept.append(logits)
            if sampler is not None:
                sampler.add(number * shape.logits, logits)
        result = step_result(
            None if sampler is None else sampler.result(), self.__all_logits(kept) if self.plan.return_logits else None
        )
        self.__drawn = result.tokens[:, 0]
        return result

    def __padded(self, batch: StepBatch, shape: StepShape) -> PaddedStep:
        padded = pad_to(batch, shape, self.__trash)
        return PaddedStep(shape, padded, step_context(padded, self.plan.block_size, np.asarray))

    def __all_logits(self, slices: list[F32]) -> F32:
        vocab = self.plan.model.axes["vocab"].full_size
        return np.concatenate(slices) if slices else np.empty((0, vocab), np.float32)


class _QueuedStep:
    """A step in the queue; a `quire.device.step_line.StartedStep`. The queue feeds the step after it itself."""

    tokens = True

    def __init__(self, run: Future[StepResult]) -> None:
        self._run = run

    def finish(self) -> StepResult:
        """Waits for the queue."""
        return self._run.result()

    def wait(self, timeout_s: float) -> bool:
        """Whether the queue is done with it by then."""
        return not wait([self._run], timeout_s).not_done


def _pool_key(group: KVGroupSpec) -> tuple[Any, ...]:
    return group.pool, group.arrays
