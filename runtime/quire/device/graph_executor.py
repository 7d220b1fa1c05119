"""An Executor made from any op library: weights, caches, the parts in order, the head in slices, sampling.

It knows no device: arrays are opaque, and only the library's `put` and `get` move them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device.batch import StepBatch
from quire.device.contract import (
    ExecutorPlan,
    KVPlan,
    LoadProgress,
    MemoryReport,
    OpLibrary,
    StepContext,
    WeightSource,
)
from quire.device.device_sampling import SamplingLibrary
from quire.device.kv_cache import KVCache
from quire.device.placement import lower_model
from quire.device.plan_check import check_features, check_limits
from quire.device.step_context import step_context
from quire.device.step_line import PendingStep, StepLine, fed_places
from quire.device.step_logits import StepLogits
from quire.device.weight_loader import WeightLoader
from quire.errors import BackendError, InternalError, QuireError
from quire.graph.interpret import PartRunner
from quire.graph.kv_budget import pools_bytes
from quire.sampling.batch import I32


class GraphExecutor:
    """Runs a plan's graph with an op library's kernels; an `Executor` of `quire.device.contract`.

    A step's kernels are called in `submit`. A library that samples what the step asks for does so there as well, and
    the next step takes the tokens on the device; else the logits are fetched and sampled when the step's result is
    read, or when the next step needs its tokens.

    Raises, when made: BackendError for a plan that the library's capabilities do not cover, or for an op that
    neither the library nor (without `plan.strict`) the reference can run.
    """

    def __init__(self, library: OpLibrary, plan: ExecutorPlan) -> None:
        check_features(plan, library.capabilities, library.name)
        check_limits(plan, library.capabilities, library.name)
        self.capabilities = library.capabilities
        self._library, self._plan = library, plan
        self._lowered = lower_model(library, plan)
        self._trunk: tuple[PartRunner, ...] = ()  # embed and layers
        self._heads: dict[str, PartRunner] = {}
        self._cache: KVCache | None = None
        self._line = StepLine(library.name, library.capabilities.async_depth, self._start)

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight to the device; one that several parts share is read and held once."""
        self._line.refuse_closed()
        before, _ = self._library.memory()
        loader = WeightLoader(self._library, self._plan, weights, progress)
        runners = {id(part): PartRunner(part.part, part.kernels, loader.load(part)) for part in self._lowered.parts()}
        self._trunk = tuple(runners[id(part)] for part in (self._lowered.embed, *self._lowered.layers))
        self._heads = {name: runners[id(part)] for name, part in self._lowered.heads.items()}
        used, free = self._library.memory()
        purposes = {"weights": used - before}
        if loader.host_bytes:
            purposes["host copies for the reference"] = loader.host_bytes
        return MemoryReport(bytes_by_purpose=purposes, available_bytes=free, placement=self._lowered.placement)

    def allocate_kv(self, plan: KVPlan) -> None:
        """Allocates the caches of every group; groups of one pool with equal arrays share them."""
        self._line.refuse_closed()
        try:
            self._cache = KVCache(self._library, self._plan, plan)
        except QuireError:
            raise
        except Exception as error:
            num_bytes = pools_bytes(self._plan.model, plan.num_blocks, self._plan.block_size, self._plan.kv_dtype)
            raise BackendError(
                f"device {self._library.name} cannot allocate {dict(plan.num_blocks)} KV blocks,"
                f" {num_bytes / 2**30:.1f} GiB",
                because=f"{type(error).__name__}: {error}",
                hint="fewer blocks: a smaller --max-model-len or --memory-utilization",
            ) from error

    def submit(self, batch: StepBatch) -> PendingStep:
        """Calls the step's kernels. Errors of kernels are raised by the result, as BackendError."""
        return self._line.submit(batch)

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        return self._kv().read_blocks(group, block_ids)

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self._kv().write_blocks(group, block_ids, pages)

    def close(self) -> None:
        """Drops weights and caches; safe to call twice."""
        self._line.close()
        self._trunk, self._heads, self._cache = (), {}, None

    # ---- one step ---------------------------------------------------------------------------------------

    def _start(self, batch: StepBatch, tokens: Any) -> StepLogits:
        """Runs embed, layers and the head.

        On the host all slices of logits but the last are sampled on the way, on the device all of them.
        """
        if not self._trunk:
            raise InternalError("submit was called before load")
        if batch.copies:
            self._kv().copy_blocks(batch.copies)
        context = step_context(batch, self._plan.block_size, self._library.put)
        environment: dict[str, Any] = {
            "token_ids": self._token_ids(batch, tokens),
            "positions": context.device["positions"],
        }
        for runner in self._trunk:
            environment.update(self._run(runner, environment, context))
        logits = StepLogits(self._library, batch.sampling, keep=self._plan.return_logits)
        if batch.sampling is not None or self._plan.return_logits:
            for start in range(0, len(batch.logits_indices), self._plan.max_logits_rows):
                logits.take_last()
                rows = batch.logits_indices[start : start + self._plan.max_logits_rows]
                logits.add(start, len(rows), self._logits(environment, rows, context))
        return logits

    def _token_ids(self, batch: StepBatch, tokens: tuple[SamplingLibrary, Any] | None) -> Any:
        """On the device, each -1 replaced by the token that the step before sampled."""
        token_ids = np.ascontiguousarray(batch.token_ids, np.int32)
        if tokens is None or (token_ids >= 0).all():
            return self._library.put(token_ids)
        sampling, drawn = tokens
        places, rows = fed_places(batch)
        return sampling.fill_tokens(token_ids, places, drawn, rows)

    def _run(self, runner: PartRunner, environment: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
        """A part's outputs, without the caches it hands back."""
        caches = {name: self._kv().handle(ref) for name, ref in runner.part.caches.items()}
        outputs = runner({**environment, **caches}, context)
        return {name: value for name, value in outputs.items() if name not in caches}

    def _logits(self, environment: Mapping[str, Any], rows: I32, context: StepContext) -> Any:
        if "logits" not in self._heads:
            raise BackendError("this model has no logits head", because=f"its heads are {sorted(self._heads)}")
        inputs = {**environment, "logits_indices": self._library.put(np.ascontiguousarray(rows, np.int32))}
        return self._run(self._heads["logits"], inputs, context)["logits"]

    def _kv(self) -> KVCache:
        self._line.refuse_closed()
        if self._cache is None:
            raise InternalError("the KV cache is used before allocate_kv")
        return self._cache
