"""Starts an executor: made, weights loaded, KV cache allocated, warmed up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quire.device.backend_errors import backend_error
from quire.device.contract import Executor, ExecutorPlan, KVPlan, LikelyStep, MemoryReport
from quire.device.registry import LoadedBackend
from quire.device.weight_source import WeightSource
from quire.errors import QuireError

PROGRESS_FROM_BYTES = 2**28
"""Smaller checkpoints are loaded before a progress bar could be read."""


@dataclass(frozen=True, slots=True)
class StartedExecutor:
    """An executor that takes steps, what its weights took, and the blocks it has."""

    executor: Executor
    memory: MemoryReport
    kv_plan: KVPlan


def start_executor(
    backend: LoadedBackend,
    plan: ExecutorPlan,
    weights: WeightSource,
    choose_blocks: Callable[[MemoryReport], KVPlan],
) -> StartedExecutor:
    """An executor of the backend that is ready for its first step.

    Args:
        choose_blocks: the KV blocks, once it is known what the weights took.
    Raises: whatever of Quire's errors the backend raises; anything else as BackendError that names device and stage.
    """
    executor = backend.create_executor(plan)
    try:
        with _progress_bar(weights.total_bytes) as progress, _on_device(backend.name, "loading the weights"):
            memory = executor.load(weights, progress)
        kv_plan = choose_blocks(memory)
        with _on_device(backend.name, "allocating the KV cache"):
            executor.allocate_kv(kv_plan)
        warmup = getattr(executor, "warmup", None)
        if warmup is not None:
            with _on_device(backend.name, "warming up"):
                warmup(likely_steps(plan))
    except BaseException:
        executor.close()
        raise
    return StartedExecutor(executor, memory, kv_plan)


def likely_steps(plan: ExecutorPlan) -> tuple[LikelyStep, ...]:
    """What most steps are, most likely first: everybody's next token, one sequence's, a full chunk of a prompt."""
    return (
        LikelyStep(plan.max_num_seqs, plan.max_num_seqs),
        LikelyStep(1, 1),
        LikelyStep(plan.max_num_batched_tokens, 1),
    )


@contextmanager
def _on_device(name: str, doing: str) -> Iterator[None]:
    """Turns what a device raises, other than an error of Quire's own, into a BackendError that names the device."""
    try:
        yield
    except QuireError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise backend_error(
            error,
            f"device {name} failed while {doing}",
            "another --device; reporting it with the log, if the model runs there",
        ) from error


@contextmanager
def _progress_bar(total_bytes: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, on a terminal and for checkpoints that take a while."""
    if not sys.stderr.isatty() or total_bytes < PROGRESS_FROM_BYTES:
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(total=total_bytes, unit="B", unit_scale=True, desc="weights", leave=False) as bar:
        yield lambda done, total: bar.update(done - bar.n) and None
