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
from quire.device.step_buckets import StepBuckets, slice_rows
from quire.device.step_line import PendingStep, StepLine, fed_places
from quire.device.step_vector import StepShape, pack_step
from quire.errors import BackendError, InternalError
from quire.sampling.batch import I32, features_used
from quire_tpu import platform
from quire_tpu.attention_choice import choose_attention
from quire_tpu.kv_storage import KVStorage
from quire_tpu.options import TpuOptions
from quire_tpu.program import StepProgram, Weights
from quire_tpu.sampler import mode_of
from quire_tpu.step_outputs import StepOutputs
from quire_tpu.weight_loader import JaxWeightLoader


class JaxExecutor:
    """Runs a plan on JAX devices; an `Executor` of `quire.device.contract`.

    One process drives all ranks of a tensor-parallel group: the plan's model is one rank's, as `shard` makes it, and
    the weight source gives every rank's weights (`WeightSource.for_rank`).

    Raises, when made: BackendError for a plan that the capabilities do not cover, or with more ranks than devices.
    """

    def __init__(self, name: str, plan: ExecutorPlan, capabilities: Capabilities, options: TpuOptions) -> None:
        check_plan(plan, capabilities, name)
        self.capabilities = capabilities
        self._name, self._plan = name, plan
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
        self._buckets = StepBuckets.of(plan)
        self._weights: Weights | None = None
        self._kv: KVStorage | None = None
        self._no_tokens: Any = None  # what a step takes that needs no tokens of the one before
        self._line = StepLine(name, capabilities.async_depth, self._start)

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight to the devices; a tied one is read and held once."""
        self._line.refuse_closed()
        loader = JaxWeightLoader(self._program, weights, progress)
        self._weights = jax.block_until_ready(loader.load())
        self._no_tokens = jax.device_put(
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
        return tuple((op, self._name + remarks.get(op, "")) for op in ops)

    def allocate_kv(self, plan: KVPlan) -> None:
        """Allocates the caches, one block more in each pool for padding."""
        self._line.refuse_closed()
        self._kv = KVStorage(self._program, plan)

    def submit(self, batch: StepBatch) -> PendingStep:
        """Dispatches the step, compiling its bucket at first use. Its errors are raised by the result."""
        return self._line.submit(batch)

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        return self._storage().read_blocks(group, block_ids)

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self._storage().write_blocks(group, block_ids, pages)

    def close(self) -> None:
        """Drops weights and caches; safe to call twice."""
        self._line.close()
        self._weights, self._kv = None, None

    # ---- one step ----------------------------------------------------------------------------------------

    def _start(self, batch: StepBatch, tokens: Any) -> StepOutputs:
        """Dispatches one step's programs."""
        if tokens is None or (batch.token_ids >= 0).all():
            tokens = self._no_tokens
        else:
            fed_places(batch)  # raises; the program looks rows up by `prev_row` and does not check them
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
        vector = pack_step(self._padded(batch, shape), shape)
        storage.arrays, drawn, logits, environment = self._program.step(
            self._weights,
            storage.arrays,
            tokens,
            vector,
            shape=shape,
            mode=mode,
            keep=keep,
            more=slices > 1,
        )
        kept = [logits] if keep else []
        for number in range(1, slices):
            kept.append(self._program.head(self._weights, environment, slice_rows(batch, shape, number)[0]))
        return StepOutputs(batch, drawn if on_device else None, kept, shape.logits, self._plan.return_logits)

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
        self._line.refuse_closed()
        if self._kv is None:
            raise InternalError("the KV cache is used before allocate_kv")
        return self._kv
