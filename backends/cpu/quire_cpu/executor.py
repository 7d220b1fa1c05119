"""The cpu executor: steps run on native threads; what it cannot sample itself is sampled when a result is read."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Mapping
from contextlib import suppress

import ml_dtypes
import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.device.capabilities import Capabilities
from quire.device.contract import ExecutorPlan, KVPlan, LoadProgress, MemoryReport, WeightSource
from quire.device.host_memory import host_memory
from quire.device.plan_check import check_plan
from quire.device.step_line import PendingStep, StepLine
from quire.errors import BackendError, InternalError
from quire.graph.kv_arrays import held_arrays
from quire.graph.kv_budget import pools_bytes
from quire.graph.shapes import concrete
from quire.sampling.batch import I32
from quire_cpu import _native
from quire_cpu.flatten import FlatPlan
from quire_cpu.options import CpuOptions
from quire_cpu.packed_weights_file import PackedWeightsFile
from quire_cpu.row_split import RowSplit

logger = logging.getLogger("quire")

_ELEMENTS = {
    "float32": (np.float32, np.float32),
    "bfloat16": (np.uint16, ml_dtypes.bfloat16),
    "float16": (np.uint16, np.float16),
    "int8": (np.int8, np.int8),
}
"""Dtype of a cache array -> (as the native module moves it, as the host page format has it)."""

KV_AHEAD_BYTES = 2**30
"""So much of the KV cache has its pages before it is used; of a small machine a sixteenth of its memory."""

_open_executors: weakref.WeakSet[CpuExecutor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Native threads end before the interpreter does."""
    for executor in list(_open_executors):
        executor.close()


class CpuExecutor:
    """Implements `quire.device.contract.Executor`; called from one thread.

    Raises, when made: BackendError for a plan the capabilities do not cover, ConfigError for an unknown option.
    """

    def __init__(self, plan: ExecutorPlan, capabilities: Capabilities) -> None:
        check_plan(plan, capabilities, "cpu")
        self.capabilities = capabilities
        self._plan = plan
        self._options = CpuOptions.parse(plan.options)
        self._vocab_size = plan.model.axes["vocab"].full_size
        self._flat: FlatPlan | None = FlatPlan(plan, self._options)
        self._queue: _native.StepQueue | None = None
        self._line = StepLine("cpu", capabilities.async_depth, self._start)
        self._loaded = False
        _open_executors.add(self)

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Packs every weight into the layout of this machine's kernels, straight from where the source holds it.

        With the option packed_weights they are mapped from what an earlier start packed, where there is such a file.
        """
        flat = self._open()
        packed = self._packed_weights_file(weights)
        if packed is None or not packed.map(flat.native):
            flat.weights.load(weights, progress)
            if packed is not None:
                packed.store(flat.native)
        self._loaded = True
        ops = {node.op for part in self._plan.model.parts() for node in part.graph.nodes}
        native = flat.native
        return MemoryReport(
            bytes_by_purpose={
                "weights": native.weight_bytes,
                "activations": native.activation_bytes,
                "tables": native.constant_bytes,
            },
            available_bytes=host_memory()[1],
            placement=tuple((op, "cpu") for op in sorted(ops)),
        )

    def allocate_kv(self, plan: KVPlan) -> None:
        """Maps the cache. Its pages take memory shortly before use, while no step runs, or else at the first write."""
        flat = self._open()
        missing = sorted(set(flat.pools) - set(plan.num_blocks))
        if missing:
            raise BackendError(f"no number of blocks for KV pool {', '.join(missing)}")
        try:
            ahead_bytes = min(KV_AHEAD_BYTES, host_memory()[0] // 16)
            flat.native.allocate_kv([plan.num_blocks[pool] for pool in flat.pools], ahead_bytes)
        except MemoryError as error:
            num_bytes = pools_bytes(self._plan.model, plan.num_blocks, self._plan.block_size, self._plan.kv_dtype)
            raise BackendError(
                f"the KV cache of {num_bytes / 2**30:.1f} GiB does not fit into memory",
                because=f"blocks asked for: {dict(plan.num_blocks)}",
                hint="a smaller --max-model-len or --memory-utilization",
            ) from error
        self._queue = _native.StepQueue(flat.native)

    def free_kv(self) -> None:
        """Gives the cache back; `allocate_kv` maps another."""
        flat = self._kv_ready()
        assert self._queue is not None
        self._queue.close()
        self._queue = None
        flat.native.allocate_kv([0] * len(flat.pools), 0)

    def submit(self, batch: StepBatch) -> PendingStep:
        """Hands the step to the native threads."""
        return self._line.submit(batch)

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        flat = self._kv_ready()
        pages, views = {}, {}
        for name, (shape, dtype) in self._page_forms(group, len(block_ids)).items():
            moved, seen = _ELEMENTS[dtype]
            pages[name] = np.empty(shape, moved)
            views[name] = pages[name].view(seen)
        self._kv_call(flat.native.read_blocks, group, block_ids, pages)
        return views

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        flat = self._kv_ready()
        given = {}
        for name, (shape, dtype) in self._page_forms(group, len(block_ids)).items():
            moved, seen = _ELEMENTS[dtype]
            page = pages.get(name)
            if page is None or page.shape != shape or page.dtype != seen:
                found = "are missing" if page is None else f"are {page.dtype} {page.shape}"
                raise BackendError(
                    f"pages {name} of group {group} {found}", because=f"the cache holds {np.dtype(seen)} {shape}"
                )
            given[name] = np.ascontiguousarray(page).view(moved)
        self._kv_call(flat.native.write_blocks, group, block_ids, given)

    def close(self) -> None:
        """Stops the threads and frees everything; safe to call twice. Steps that have not begun are dropped."""
        if self._queue is not None:
            self._queue.close()
        self._line.close()
        self._queue, self._flat = None, None

    def set_profiling(self, on: bool) -> None:
        """Whether time is summed by native op (`take_profile`)."""
        self._open().native.set_profiling(on)

    def take_profile(self) -> dict[str, float]:
        """Seconds spent in each native op since the last call; sampling is one of them."""
        return dict(self._open().native.take_profile())

    def take_step_times(self) -> list[tuple[float, float, float]]:
        """Of each step since the last call, while profiling is on: when it began and ended on its native thread
        (`time.monotonic`), and how much of that it spent in native ops, in seconds."""
        return list(self._open().native.take_step_times())

    # ---- inside ----------------------------------------------------------------------------------------

    def _start(self, batch: StepBatch, tokens: object) -> CpuStep:
        """Queues the step; the native queue feeds it from the step before, which is `tokens`."""
        flat, queue = self._open(), self._queue
        if queue is None or not self._loaded:
            raise InternalError("submit was called before load and allocate_kv")
        split = RowSplit(batch, return_logits=self._plan.return_logits, vocab_size=self._vocab_size)
        groups = []
        for name in flat.group_index:
            copies = batch.copies.get(name)
            groups.append((_i32(batch.groups[name].block_tables), None if copies is None else _i32(copies)))
        wants_logits = split.needs_head and flat.has_logits
        flat.cover_positions(int((batch.seq_lens if batch.positions is None else batch.positions + 1).max()))
        number = queue.submit(
            _i32(batch.token_ids),
            _i32(batch.query_start_loc),
            _i32(batch.num_computed),
            _i32(batch.prev_row),
            None if batch.positions is None else _i32(batch.positions),
            _i32(batch.logits_indices) if wants_logits else np.empty(0, np.int32),
            groups,
            split.sampled_rows,
            split.returned_rows,
            split.draws,
        )
        return CpuStep(queue, number, split, batch.step)

    def _packed_weights_file(self, weights: WeightSource) -> PackedWeightsFile | None:
        folder = self._options.packed_weights
        if folder is None:
            return None
        if not weights.fingerprint:
            logger.warning("packed weights are not kept: these weights do not come from files")
            return None
        return PackedWeightsFile(folder, self._open().identity(), weights.fingerprint)

    def _open(self) -> FlatPlan:
        self._line.refuse_closed()
        assert self._flat is not None
        return self._flat

    def _kv_ready(self) -> FlatPlan:
        """The plan, with no step running."""
        flat = self._open()
        if self._queue is None:
            raise InternalError("the KV cache is used before allocate_kv")
        self._line.finish_all()
        return flat

    def _kv_call(self, call: object, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        assert callable(call)
        try:
            call(self._open().group_index[group], _i32(block_ids), **pages)
        except ValueError as error:
            raise BackendError(f"pages of KV group {group} cannot be moved", because=str(error)) from error

    def _page_forms(self, group: str, num_blocks: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Array name -> (shape, dtype) of `num_blocks` pages."""
        spec, sizes = self._plan.model.kv_groups[group], self._plan.model.axis_sizes()
        page = (num_blocks, spec.layers, self._plan.block_size)
        return {
            array.name: ((*page, *concrete(array.shape, sizes)), array.dtype)
            for array in held_arrays(spec, self._plan.kv_dtype)
        }


class CpuStep:
    """A step in the native queue; a `quire.device.step_line.StartedStep`.

    Attributes:
        tokens: the queue, which keeps them for the next step.
    """

    def __init__(self, queue: _native.StepQueue, number: int, split: RowSplit, step: int) -> None:
        self.tokens = queue
        self._number, self._split, self._step = number, split, step

    def finish(self) -> StepResult:
        """Waits for the step, samples what it left to the host, and feeds those tokens to the next step."""
        try:
            tokens, logits, error = self.tokens.wait(self._number)
            if error:
                raise BackendError(f"step {self._step} failed on device cpu", because=error)
            result = self._split.result(np.frombuffer(tokens, np.int32), logits)
            if self._split.has_host_rows:
                self.tokens.provide_tokens(self._number, np.maximum(result.tokens[:, 0], 0))
        except Exception:
            with suppress(RuntimeError):  # a queue that is gone has nobody left to tell
                self.tokens.fail(self._number)
            raise
        return result


def _i32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.int32)
