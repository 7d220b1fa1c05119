"""An Executor made from any op library: weights, caches, the parts in order, the head in slices, sampling.

It knows no device: arrays are opaque, and only the library's `put` and `get` move them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from quire.device.backend_errors import backend_error
from quire.device.batch import StepBatch
from quire.device.contract import (
    ExecutorPlan,
    KVPlan,
    LikelyStep,
    LoadProgress,
    MemoryReport,
    OpLibrary,
    StepContext,
    WeightSource,
)
from quire.device.device_sampling import SamplingLibrary
from quire.device.kv_cache import KVCache
from quire.device.library_hooks import LibraryHooks, RunStep
from quire.device.placement import WholePartRunner, lower_model
from quire.device.plan_check import check_features, check_limits
from quire.device.step_buckets import pad_to, slice_rows
from quire.device.step_context import step_context
from quire.device.step_line import PendingStep, StepLine, fed_places
from quire.device.step_logits import StepLogits
from quire.device.step_vector import StepShape
from quire.device.weight_loader import load_weights
from quire.device.weight_stream import WeightStream
from quire.errors import BackendError, InternalError, QuireError
from quire.graph.interpret import PartRunner
from quire.graph.kv_budget import pools_bytes
from quire.sampling.batch import I32

Runner = PartRunner | WholePartRunner


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
        self._hooks = LibraryHooks.of(library)
        self._lowered = lower_model(library, plan)
        self._buckets = None if self._hooks.step_buckets is None else self._hooks.step_buckets(plan)
        self._replays: dict[StepShape, RunStep] = {}
        self._trunk: tuple[Runner, ...] = ()  # embed and layers
        self._heads: dict[str, Runner] = {}
        self._cache: KVCache | None = None
        self._line = StepLine(library.name, library.capabilities.async_depth, self._start)

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight to the device; one that several parts share is read and held once."""
        self._line.refuse_closed()
        before, _ = self._library.memory()
        loaded = load_weights(self._library, self._lowered, WeightStream(self._plan, weights, progress))
        runners = {id(part): part.runner(loaded.of(part.part)) for part in self._lowered.parts()}
        self._trunk = tuple(runners[id(part)] for part in (self._lowered.embed, *self._lowered.layers))
        self._heads = {name: runners[id(part)] for name, part in self._lowered.heads.items()}
        used, free = self._library.memory()
        purposes = {"weights": used - before}
        if loaded.host_bytes:
            purposes["host copies for the reference"] = loaded.host_bytes
        return MemoryReport(bytes_by_purpose=purposes, available_bytes=free, placement=self._lowered.placement)

    def allocate_kv(self, plan: KVPlan) -> None:
        """Allocates the caches of every group; groups of one pool with equal arrays share them."""
        self._line.refuse_closed()
        try:
            spare = 0 if self._buckets is None else 1
            self._cache = KVCache(self._library, self._plan, plan, spare_blocks=spare)
        except QuireError:
            raise
        except Exception as error:
            num_bytes = pools_bytes(self._plan.model, plan.num_blocks, self._plan.block_size, self._plan.kv_dtype)
            raise backend_error(
                error,
                f"device {self._library.name} cannot allocate {dict(plan.num_blocks)} KV blocks,"
                f" {num_bytes / 2**30:.1f} GiB",
                "fewer blocks: a smaller --max-model-len or --memory-utilization",
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

    def free_kv(self) -> None:
        """Drops the caches, and with them what was captured over them; `allocate_kv` makes others."""
        self._line.refuse_closed()
        self._line.finish_all()
        self._cache, self._replays = None, {}

    def warmup(self, likely: Sequence[LikelyStep]) -> None:
        """What the library wants done before the first step; it may do nothing."""
        self._line.refuse_closed()
        if self._hooks.warmup is not None:
            self._hooks.warmup(self._plan, likely)

    def close(self) -> None:
        """Drops weights and caches, and closes the library; safe to call twice."""
        if self._line.is_closed:
            return
        self._line.close()
        self._trunk, self._heads, self._cache, self._replays = (), {}, None, {}
        if self._hooks.close is not None:
            self._hooks.close()

    # ---- one step ---------------------------------------------------------------------------------------

    def _start(self, batch: StepBatch, tokens: Any) -> StepLogits:
        """Runs embed, layers and the head, in the step's own shape or in that of its bucket.

        On the host all slices of logits but the last are sampled on the way, on the device all of them.
        """
        if not self._trunk:
            raise InternalError("submit was called before load")
        if batch.copies:
            self._kv().copy_blocks(batch.copies)
        logits = StepLogits(self._library, batch.sampling, keep=self._plan.return_logits)
        wanted = len(batch.logits_indices) if batch.sampling is not None or self._plan.return_logits else 0
        if self._buckets is None:
            self._run_exact(batch, tokens, logits, wanted)
        else:
            self._run_padded(batch, tokens, logits, wanted, self._buckets.shape(batch))
        return logits

    def _run_exact(self, batch: StepBatch, tokens: Any, logits: StepLogits, wanted: int) -> None:
        context = self._context(batch)
        self._begin(context)
        environment = self._run_trunk(context, self._token_ids(batch, tokens))
        for start in range(0, wanted, self._plan.max_logits_rows):
            logits.take_last()
            rows = batch.logits_indices[start : start + self._plan.max_logits_rows]
            logits.add(start, len(rows), self._logits(environment, self._put_rows(rows), context))
        self._end(context)

    def _run_padded(self, batch: StepBatch, tokens: Any, logits: StepLogits, wanted: int, shape: StepShape) -> None:
        padded = pad_to(batch, shape, self._kv().num_blocks)
        context = self._context(padded)
        self._begin(context)
        token_ids = self._token_ids(padded, tokens)
        if self._hooks.capture is not None and 0 < wanted <= shape.logits:
            arrays = {**context.device, "token_ids": token_ids, "logits_indices": self._put_rows(padded.logits_indices)}
            if shape not in self._replays:
                self._replays[shape] = self._hooks.capture(shape, partial(self._run_step, padded))
            logits.add(0, wanted, self._replays[shape](arrays))
        else:
            environment = self._run_trunk(context, token_ids)
            for number in range(-(-wanted // shape.logits)):
                logits.take_last()
                rows, count = slice_rows(batch, shape, number)
                logits.add(number * shape.logits, count, self._logits(environment, self._put_rows(rows), context))
        self._end(context)

    def _run_step(self, batch: StepBatch, arrays: Mapping[str, Any]) -> Any:
        """Logits of a padded step, as a function of arrays of the device."""
        context = StepContext(batch, self._plan.block_size, arrays)
        return self._logits(self._run_trunk(context, arrays["token_ids"]), arrays["logits_indices"], context)

    def _context(self, batch: StepBatch) -> StepContext:
        return step_context(batch, self._plan.block_size, self._library.put, self._hooks.put_step)

    def _begin(self, context: StepContext) -> None:
        if self._hooks.begin_step is not None:
            self._hooks.begin_step(context)

    def _end(self, context: StepContext) -> None:
        if self._hooks.end_step is not None:
            self._hooks.end_step(context)

    def _run_trunk(self, context: StepContext, token_ids: Any) -> dict[str, Any]:
        environment: dict[str, Any] = {"token_ids": token_ids, "positions": context.device["positions"]}
        for runner in self._trunk:
            environment.update(self._run(runner, environment, context))
        return environment

    def _put_rows(self, rows: I32) -> Any:
        return self._library.put(np.ascontiguousarray(rows, np.int32))

    def _token_ids(self, batch: StepBatch, tokens: tuple[SamplingLibrary, Any] | None) -> Any:
        """On the device, each -1 replaced by the token that the step before sampled."""
        token_ids = np.ascontiguousarray(batch.token_ids, np.int32)
        if tokens is None or (token_ids >= 0).all():
            return self._library.put(token_ids)
        sampling, drawn = tokens
        places, rows = fed_places(batch)
        return sampling.fill_tokens(token_ids, places, drawn, rows)

    def _run(self, runner: Runner, environment: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
        """A part's outputs, without the caches it hands back."""
        caches = {name: self._kv().handle(ref) for name, ref in runner.part.caches.items()}
        outputs = runner({**environment, **caches}, context)
        return {name: value for name, value in outputs.items() if name not in caches}

    def _logits(self, environment: Mapping[str, Any], rows: Any, context: StepContext) -> Any:
        if "logits" not in self._heads:
            raise BackendError("this model has no logits head", because=f"its heads are {sorted(self._heads)}")
        return self._run(self._heads["logits"], {**environment, "logits_indices": rows}, context)["logits"]

    def _kv(self) -> KVCache:
        self._line.refuse_closed()
        if self._cache is None:
            raise InternalError("the KV cache is used before allocate_kv")
        return self._cache
