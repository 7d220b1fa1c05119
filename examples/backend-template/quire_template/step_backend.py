"""The device `template_step`: the whole contract, for a compiler, a vendor's SDK or a remote service.

What such devices have in common is shown here: steps in a few fixed shapes (a compiler compiles one program for
each), a trash block for padding to write to, and a queue of steps, so that the engine prepares the next one while
this one runs. The "program" is the graph, run node by node.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from quire.device import (
    BackendError,
    CacheHandle,
    Capabilities,
    DeviceReport,
    Executor,
    ExecutorPlan,
    InternalError,
    Kernel,
    KVPlan,
    LoadProgress,
    MemoryReport,
    SlicedSampler,
    StepBatch,
    StepContext,
    StepResult,
    WeightSource,
    check_plan,
    hookimpl,
    pad,
    step_context,
    token_indices,
)
from quire.graph.interpret import PartRunner
from quire.graph.ir import CacheRef, Node, Part
from quire.graph.shapes import concrete
from quire_template.host_memory import host_memory
from quire_template.kernels import KERNELS, paged_attention
from quire_template.op_backend import refuse_options

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


class TemplateExecutor:
    """An `Executor` of `quire.device`. One worker thread stands for the device's queue: it runs steps in order.

    Attributes:
        shapes: (tokens, sequences, logits rows) of every step so far: what a compiler would have had to compile.
    """

    capabilities = CAPABILITIES

    def __init__(self, plan: ExecutorPlan) -> None:
        check_plan(plan, CAPABILITIES, NAME)
        missing = _ops(plan) - CAPABILITIES.ops
        if missing:
            raise BackendError(
                f"device {NAME} does not implement {', '.join(sorted(missing))}",
                because="a step-level backend has no reference to fall back on",
                hint="another --device",
            )
        self.shapes: set[tuple[int, int, int]] = set()
        self._plan = plan
        self._runners: dict[str, PartRunner] = {}
        self._pools: dict[Any, dict[str, np.ndarray]] = {}
        self._trash: dict[str, int] = {}
        self._last_tokens = np.empty(0, np.int32)
        self._queue = ThreadPoolExecutor(1, thread_name_prefix=NAME)
        self._unread: set[Future[StepResult]] = set()
        self._closed = False

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Each checkpoint expression once, however many parts read it (a tied embedding is one)."""
        held: dict[Any, np.ndarray] = {}
        for part in self._plan.model.parts():
            bound = {}
            for name, weight in part.graph.weights.items():
                if weight.source not in held:
                    held[weight.source] = np.array(weights.read(weight), np.float32, order="C")
                    progress(sum(array.nbytes for array in held.values()), weights.total_bytes)
                bound[name] = held[weight.source]
            kernels = [_kernel(node, self._plan) for node in part.graph.nodes]
            self._runners[part.prefix] = PartRunner(part, kernels, bound)
        return MemoryReport(
            bytes_by_purpose={"weights": sum(array.nbytes for array in held.values())},
            available_bytes=host_memory()[1],
            placement=tuple((op, NAME) for op in sorted(_ops(self._plan))),
        )

    def allocate_kv(self, plan: KVPlan) -> None:
        """[layers, num_blocks + 1, block_size, kv_heads, head_dim]; the block behind the core's is the trash block.

        Groups of one pool with equal arrays share storage: a block belongs to one of them at a time.
        """
        model = self._plan.model
        for name, group in model.kv_groups.items():
            num_blocks, key = plan.num_blocks[group.pool], (group.pool, group.arrays)
            num_layers = max(g.layers for g in model.kv_groups.values() if (g.pool, g.arrays) == key)
            shape = (num_layers, num_blocks + 1, self._plan.block_size)
            self._trash[name] = num_blocks
            if key not in self._pools:
                try:
                    self._pools[key] = {
                        array.name: np.zeros((*shape, *concrete(array.shape, model.axis_sizes())), np.float32)
                        for array in group.arrays
                    }
                except (MemoryError, ValueError) as error:
                    raise BackendError(
                        f"device {NAME} cannot allocate {num_blocks} KV blocks",
                        because=str(error),
                        hint="a smaller --max-model-len or --memory-utilization",
                    ) from error

    def submit(self, batch: StepBatch) -> _Pending:
        """Queues the step and returns at once."""
        self._refuse_closed()
        if len(self._unread) >= CAPABILITIES.async_depth:
            raise InternalError(f"step {batch.step} was submitted over {len(self._unread)} unread ones")
        future = self._queue.submit(self._run, batch)
        self._unread.add(future)
        return _Pending(self, future)

    def _run(self, batch: StepBatch) -> StepResult:
        """One step, on the worker: exact arrays in, fixed shapes inside, exact results out."""
        for group, pairs in batch.copies.items():
            for array in self._arrays(group).values():
                array[:, pairs[:, 1]] = array[:, pairs[:, 0]]  # the right side is read whole first
        padded = self._padded(batch)
        context = step_context(padded, self._plan.block_size, np.asarray)
        environment: dict[str, Any] = {
            "token_ids": self._token_ids(batch, padded),
            "positions": context.device["positions"],
        }
        model = self._plan.model
        for part in (model.embed, *model.layers):
            environment.update(self._run_part(part, environment, context))
        num_rows, most = len(batch.logits_indices), self._plan.max_logits_rows
        sampler = None if batch.sampling is None else SlicedSampler(batch.sampling)
        kept = []
        for start in range(0, num_rows if sampler or self._plan.return_logits else 0, most):
            rows = padded.logits_indices[start : start + most]
            logits = self._run_part(model.heads["logits"], {**environment, "logits_indices": rows}, context)["logits"]
            logits = logits[: num_rows - start]  # padding rows end here
            kept.append(logits)
            if sampler is not None:
                sampler.add(start, logits)
        drawn = None if sampler is None else sampler.result()
        self._last_tokens = np.empty(0, np.int32) if drawn is None else drawn.tokens
        return StepResult(
            tokens=self._last_tokens[:, None],
            num_emitted=np.ones(len(self._last_tokens), np.int32),
            logprobs=None if drawn is None else drawn.logprobs,
            prompt_logprobs=None if drawn is None else drawn.prompt_logprobs,
            logits=np.concatenate(kept) if kept and self._plan.return_logits else None,
        )

    def _padded(self, batch: StepBatch) -> StepBatch:
        """The batch in the next larger bucket, with at least one sequence to spare for padding tokens."""
        num_tokens, num_seqs = _bucket(batch.num_tokens, 16), _bucket(batch.num_seqs + 1, 2)
        num_logits = _bucket(len(batch.logits_indices), 2)
        self.shapes.add((num_tokens, num_seqs, num_logits))
        max_blocks = -(-max(self._plan.max_model_len, num_tokens) // self._plan.block_size)
        if batch.positions is None:  # so that padding tokens stand at position 0, whatever their number
            batch = replace(batch, positions=token_indices(batch)[1])
        return pad(
            batch,
            num_tokens=num_tokens,
            num_seqs=num_seqs,
            num_logits=num_logits,
            max_blocks=max_blocks,
            trash=self._trash,
        )

    def _token_ids(self, batch: StepBatch, padded: StepBatch) -> np.ndarray:
        """-1 = the token that row `prev_row` of the step before sampled, which the host has not seen yet."""
        token_ids = padded.token_ids.copy()
        places = np.flatnonzero(batch.token_ids < 0)
        rows = batch.prev_row[token_indices(batch)[0][places]]
        token_ids[places] = np.maximum(self._last_tokens[rows], 0)  # no token: that request is about to end
        return token_ids

    def _run_part(self, part: Part, environment: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
        caches = {name: self._cache(ref) for name, ref in part.caches.items()}
        outputs = self._runners[part.prefix]({**environment, **caches}, context)
        return {name: value for name, value in outputs.items() if name not in caches}

    def read_blocks(self, group: str, block_ids: np.ndarray) -> Mapping[str, np.ndarray]:
        """[n, layers, block_size, kv_heads, head_dim], behind the steps that are queued."""
        self._refuse_closed()

        def read() -> dict[str, np.ndarray]:
            return {name: array[:, block_ids].swapaxes(0, 1) for name, array in self._arrays(group).items()}

        return self._queue.submit(read).result()

    def write_blocks(self, group: str, block_ids: np.ndarray, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self._refuse_closed()

        def write() -> None:
            for name, array in self._arrays(group).items():
                array[:, block_ids] = pages[name].swapaxes(0, 1)

        self._queue.submit(write).result()

    def close(self) -> None:
        """Waits for the queue and frees everything; safe to call twice."""
        self._closed = True
        self._queue.shutdown(wait=True, cancel_futures=True)
        self._runners, self._pools, self._unread = {}, {}, set()

    def _arrays(self, group: str) -> dict[str, np.ndarray]:
        """Views of the group's layers."""
        spec = self._plan.model.kv_groups[group]
        return {name: array[: spec.layers] for name, array in self._pools[spec.pool, spec.arrays].items()}

    def _cache(self, ref: CacheRef) -> CacheHandle:
        return CacheHandle(ref.group, ref.slot, {name: a[ref.slot] for name, a in self._arrays(ref.group).items()})

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(f"the executor of device {NAME} is closed")


class _Pending:
    """A queued step."""

    def __init__(self, executor: TemplateExecutor, future: Future[StepResult]) -> None:
        self._executor, self._future = executor, future

    def result(self) -> StepResult:
        """Waits; whatever went wrong on the device comes out as BackendError."""
        self._executor._unread.discard(self._future)
        try:
            return self._future.result()
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"a step failed on device {NAME}", because=f"{type(error).__name__}: {error}") from error


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


def _bucket(count: int, least: int) -> int:
    return max(least, 1 << (count - 1).bit_length())


def _ops(plan: ExecutorPlan) -> set[str]:
    return {node.op for part in plan.model.parts() for node in part.graph.nodes}


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
    refuse_options(device, options)
    return CAPABILITIES


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """Raises BackendError for a plan that the capabilities do not cover, or an op that is missing."""
    refuse_options(device, plan.options)
    return TemplateExecutor(plan)
