"""The JAX executor: steps padded to buckets, submitted without waiting, tokens fed back on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from quire.device.batch import StepBatch, pad
from quire.device.capabilities import Capabilities
from quire.device.contract import ExecutorPlan, KVPlan, LoadProgress, MemoryReport, WeightSource
from quire.device.plan_check import check_plan
from quire.errors import BackendError, InternalError
from quire.sampling.batch import I32, features_used
from quire_tpu import platform
from quire_tpu.attention_choice import choose_attention
from quire_tpu.buckets import Buckets
from quire_tpu.kv_storage import KVStorage
from quire_tpu.options import TpuOptions
from quire_tpu.pending import PendingStep, StepOutputs
from quire_tpu.program import StepProgram, Weights
from quire_tpu.sampler import mode_of
from quire_tpu.step_inputs import StepShape, pack
from quire_tpu.weight_loader import JaxWeightLoader


class JaxExecutor:
    """Runs a plan on JAX devices; an `Executor` of `quire.device.contract`.

    One process drives all ranks of a tensor-parallel group: the plan's model is one rank's, as `shard` makes it, and
    the weight source gives every rank's weights (`weight_loader.RankedWeights`).

    Attributes:
        unread: submitted steps whose results were not read, oldest first.
        no_tokens: what a step takes that needs no tokens of the one before.
    Raises, when made: BackendError for a plan that the capabilities do not cover, or with more ranks than devices.
    """

    def __init__(self, name: str, plan: ExecutorPlan, capabilities: Capabilities, options: TpuOptions) -> None:
        check_plan(plan, capabilities, name)
        self.capabilities = capabilities
        self.name, self._plan = name, plan
        found = platform.devices(options.platform)
        ranks = plan.parallel.world_size
        if len(found) < ranks:
            raise BackendError(
                f"tensor_parallel_size={ranks} on device {name}",
                because=f"it has {len(found)} devices",
                hint=f"--tensor-parallel-size {len(found)}",
            )
        attention = choose_attention(plan, options)
        self._program = StepProgram(plan, found[:ranks], attention.function)
        self._remarks = {"paged_attention": attention.remark}
        self._buckets = Buckets.of(plan)
        self._weights: Weights | None = None
        self._kv: KVStorage | None = None
        self.unread: list[PendingStep] = []
        self._previous: PendingStep | None = None
        self.no_tokens: Any = None
        self._closed = False

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight to the devices; a tied one is read and held once."""
        self._refuse_closed()
        loader = JaxWeightLoader(self._program, weights, progress)
        self._weights = jax.block_until_ready(loader.load())
        self.no_tokens = jax.device_put(
            np.zeros(self._buckets.seqs[-1], np.int32), self._program.sharding(by_rank=False)
        )
        _, free = platform.memory(self._program.devices[0])
        return MemoryReport(
            bytes_by_purpose={"weights": loader.device_bytes // self._program.world_size},
            available_bytes=free,
            placement=self._placement(),
        )

    def _placement(self) -> tuple[tuple[str, str], ...]:
        ops = sorted({node.op for part in self._plan.model.parts() for node in part.graph.nodes})
        remarks = {op: f" ({remark})" for op, remark in self._remarks.items() if remark}
        return tuple((op, self.name + remarks.get(op, "")) for op in ops)

    def allocate_kv(self, plan: KVPlan) -> None:
        """Allocates the caches, one block more in each pool for padding."""
        self._refuse_closed()
        self._kv = KVStorage(self._program, plan)

    def submit(self, batch: StepBatch) -> PendingStep:
        """Dispatches the step, compiling its bucket at first use. Its errors are raised by the result."""
        self._refuse_closed()
        if len(self.unread) >= self.capabilities.async_depth:
            raise InternalError(
                f"step {batch.step} was submitted over {len(self.unread)} unread ones",
                because=f"async_depth is {self.capabilities.async_depth}",
            )
        step = PendingStep(self, batch)
        step.start(self._previous)
        self.unread.append(step)  # last: an interrupted call leaves no step that nobody will read
        self._previous = step
        return step

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        return self._storage().read_blocks(group, block_ids)

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self._storage().write_blocks(group, block_ids, pages)

    def close(self) -> None:
        """Drops weights and caches; safe to call twice."""
        self._closed = True
        self._weights, self._kv, self._previous = None, None, None
        self.unread.clear()

    # ---- one step, called by `PendingStep` ---------------------------------------------------------------

    def run(self, batch: StepBatch, feedback: Any) -> StepOutputs:
        """Dispatches one step's programs."""
        storage = self._storage()
        if self._weights is None:
            raise InternalError("submit was called before load")
        storage.copy_blocks(batch.copies)
        shape = self._buckets.shape(batch)
        slices = max(1, -(-len(batch.logits_indices) // shape.logits))
        on_device = slices == 1 and (
            batch.sampling is None or features_used(batch.sampling) <= self.capabilities.device_sampling
        )
        mode = mode_of(batch.sampling) if on_device else "host"
        keep = self._plan.return_logits or mode == "host"
        vector = pack(self._padded(batch, shape), shape)
        storage.arrays, tokens, logits, environment = self._program.step(
            self._weights, storage.arrays, feedback, vector, shape=shape, mode=mode, keep=keep, more=slices > 1
        )
        kept = [logits] if keep else []
        for number in range(1, slices):
            kept.append(self._program.head(self._weights, environment, _slice_rows(batch, shape, number)))
        return StepOutputs(batch, tokens if on_device else None, kept, shape.logits, self._plan.return_logits)

    def _padded(self, batch: StepBatch, shape: StepShape) -> StepBatch:
        """The batch in its bucket's shape, with the first slice of logits rows."""
        first = replace(batch, logits_indices=batch.logits_indices[: shape.logits], copies={})
        return pad(
            first,
            num_tokens=shape.tokens,
            num_seqs=shape.seqs,
            num_logits=shape.logits,
            max_blocks=shape.blocks,
            trash=-1,
        )  # pools have trash blocks of their own, put in by the step

    def _storage(self) -> KVStorage:
        self._refuse_closed()
        if self._kv is None:
            raise InternalError("the KV cache is used before allocate_kv")
        return self._kv

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(f"the executor of device {self.name} is closed")


def _slice_rows(batch: StepBatch, shape: StepShape, number: int) -> I32:
    """The rows of one slice of the head, padded with row 0."""
    rows = np.zeros(shape.logits, np.int32)
    wanted = batch.logits_indices[number * shape.logits :][: shape.logits]
    rows[: len(wanted)] = wanted
    return rows
