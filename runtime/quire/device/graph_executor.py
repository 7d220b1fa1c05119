"""An Executor made from any op library: weights, caches, the parts in order, the head in slices, sampling.

It knows no device: arrays are opaque, and only the library's `put` and `get` move them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device.batch import StepBatch, StepResult, token_indices
from quire.device.contract import (
    ExecutorPlan,
    KVPlan,
    LoadProgress,
    MemoryReport,
    OpLibrary,
    StepContext,
    WeightSource,
)
from quire.device.kv_cache import KVCache
from quire.device.placement import lower_model
from quire.device.plan_check import check_plan
from quire.device.step_context import step_context
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
        check_plan(plan, library.capabilities, library.name)
        self.capabilities = library.capabilities
        self._library, self._plan = library, plan
        self._lowered = lower_model(library, plan)
        self._trunk: tuple[PartRunner, ...] = ()  # embed and layers
        self._heads: dict[str, PartRunner] = {}
        self._cache: KVCache | None = None
        self._unread: list[_PendingStep] = []
        self._previous: _PendingStep | None = None
        self._closed = False

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight to the device; one that several parts share is read and held once."""
        self._refuse_closed()
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
        self._refuse_closed()
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

    def submit(self, batch: StepBatch) -> _PendingStep:
        """Calls the step's kernels. Errors of kernels are raised by the result, as BackendError."""
        self._refuse_closed()
        if len(self._unread) >= self.capabilities.async_depth:
            raise InternalError(
                f"step {batch.step} was submitted over {len(self._unread)} unread ones",
                because=f"async_depth is {self.capabilities.async_depth}",
            )
        step = _PendingStep(self, batch, self._previous)
        step.start()
        self._unread.append(step)  # last: an interrupted call leaves no step that nobody will read
        self._previous = step
        return step

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        return self._kv().read_blocks(group, block_ids)

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self._kv().write_blocks(group, block_ids, pages)

    def close(self) -> None:
        """Drops weights and caches; safe to call twice."""
        self._closed = True
        self._trunk, self._heads, self._cache, self._previous = (), {}, None, None
        self._unread.clear()

    # ---- one step, called by _PendingStep ---------------------------------------------------------------

    def _forward(self, batch: StepBatch, token_ids: Any) -> StepLogits:
        """Runs embed, layers and the head on `token_ids`, which are on the device already.

        On the host all slices of logits but the last are sampled on the way, on the device all of them.
        """
        if not self._trunk:
            raise InternalError("submit was called before load")
        if batch.copies:
            self._kv().copy_blocks(batch.copies)
        context = step_context(batch, self._plan.block_size, self._library.put)
        environment: dict[str, Any] = {
            "token_ids": token_ids,
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
        self._refuse_closed()
        if self._cache is None:
            raise InternalError("the KV cache is used before allocate_kv")
        return self._cache

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(f"the executor of device {self._library.name} is closed")


class _PendingStep:
    """A submitted step; implements `Pending`. Holds the step before it only until that one's tokens are read."""

    def __init__(self, executor: GraphExecutor, batch: StepBatch, previous: _PendingStep | None) -> None:
        self._executor, self._batch, self._previous = executor, batch, previous
        self._logits: StepLogits | None = None
        self._result: StepResult | None = None
        self._error: BackendError | None = None

    def start(self) -> None:
        """Runs the kernels; an error is kept for `result`."""
        try:
            self._logits = self._executor._forward(self._batch, self._token_ids())
        except Exception as error:
            self._error = self._failed(error)
        self._previous = None

    def result(self) -> StepResult:
        """Waits for the step and returns its result; raises BackendError when it failed."""
        if self in self._executor._unread:
            self._executor._unread.remove(self)
        return self._finish()

    def _finish(self) -> StepResult:
        if self._logits is not None:
            try:
                self._result = self._logits.result()
            except Exception as error:
                self._error = self._failed(error)
            self._logits = None
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _token_ids(self) -> Any:
        """The batch's token ids on the device, each -1 replaced by the token that the step before sampled."""
        library = self._executor._library
        token_ids = np.ascontiguousarray(self._batch.token_ids, np.int32)
        places = np.flatnonzero(token_ids < 0)
        if len(places) == 0:
            return library.put(token_ids)
        rows = self._batch.prev_row[token_indices(self._batch)[0][places]]
        if self._previous is None or (rows < 0).any():
            raise InternalError(f"step {self._batch.step}: a token id of -1 has no row in the step before")
        on_device = None if self._previous._logits is None else self._previous._logits.tokens_on_device()
        if on_device is not None:
            sampling, tokens = on_device
            return sampling.fill_tokens(token_ids, places.astype(np.int32), tokens, rows)
        filled = token_ids.copy()
        drawn = self._previous._finish().tokens[rows, 0]
        filled[places] = np.maximum(drawn, 0)  # NO_TOKEN: that request is ending, its row only has to run
        return library.put(filled)

    def _failed(self, error: Exception) -> BackendError:
        if isinstance(error, BackendError):
            return error
        because = error.what if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
        failure = BackendError(
            f"step {self._batch.step} failed on device {self._executor._library.name}",
            because=because,
            hint="the traceback above; the engine can restart the executor",
        )
        failure.__cause__ = error
        return failure
