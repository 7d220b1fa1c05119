"""The contract between the core and a device, version 1.

A plugin is a module named by an entry point of the group `quire.backends`; it holds pluggy hook
implementations (`quire.device.hookspecs`). There are two ways in:

- step level: implement `Executor` yourself (a compiler, a vendor SDK, a remote service);
- op level: implement `OpLibrary` and let `quire.device.graph_executor.GraphExecutor` do the rest.

All calls come from one thread, the engine's. Data crosses as numpy arrays and frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.device.capabilities import Capabilities
from quire.device.weight_source import LoadProgress, WeightSource
from quire.graph.ir import Graph, KVGroupSpec, ModelGraph, Node, Weight
from quire.sampling.batch import I32
from quire.weights.schemes import QuantizedMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelRank:
    """This executor's place in a tensor-parallel group."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorPlan:
    """What an executor is created for; all limits are final.

    Attributes:
        model: the graph for this rank, already through the passes the device declared.
        weight_dtype: dtype in which plain weights are held; act_dtype: activations; kv_dtype: KV cache.
        block_size: tokens per KV block.
        max_model_len: longest sequence; rope tables need this many rows.
        max_num_batched_tokens, max_num_seqs: most T and S of one step.
        max_logits_rows: rows that the head handles at once; an executor runs it in slices where a step has more.
        return_logits: StepResult.logits is filled (tests, conformance).
        strict: an op without the device's own implementation is an error, not a fallback.
        options: `--device-option key=value` pairs; unknown keys are refused by the backend.
    """

    model: ModelGraph
    weight_dtype: str
    act_dtype: str
    kv_dtype: str
    block_size: int
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_logits_rows: int
    parallel: ParallelRank = field(default_factory=ParallelRank)
    return_logits: bool = False
    strict: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPlan:
    """How many blocks each pool gets. Groups that name one pool share its block ids.

    Attributes:
        num_blocks: pool name -> blocks with ids 0 .. num_blocks-1; an executor that wants a trash block
            allocates one more for itself.
    """

    num_blocks: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Bytes held on the device after `load`, by purpose ("weights", "activations", "tables", ...).

    Attributes:
        available_bytes: what is left for the KV cache on the device (or host memory for host devices).
        placement: (op, where) pairs for the placement table: the device's name, with a remark in brackets for an op
            that runs slower than it could, or "reference".
    """

    bytes_by_purpose: Mapping[str, int]
    available_bytes: int
    placement: tuple[tuple[str, str], ...] = ()


class Pending(Protocol):
    """A submitted step."""

    def result(self) -> StepResult:
        """Waits for the step and returns its result; raises BackendError when it failed. Called once.

        An error is for what befell the whole step, and its `kind` says what is to be done: see `BackendError`. Broken
        logits of one row are no error: `StepResult.tokens` says so of the row.

        A step may have `wait(timeout_s: float) -> bool` as well, since contract 1.2: whether it is done by then. With
        it the engine notices a step that never comes, closes the executor and makes another (`--step-timeout`).
        """


class Executor(Protocol):
    """A device's side of the contract at step level. Owns all device state."""

    capabilities: Capabilities

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Streams every weight of the plan's graph to the device. Called first, and only once."""

    def allocate_kv(self, plan: KVPlan) -> None:
        """Allocates the KV cache, after `load`. Raises BackendError when it does not fit.

        Called again after `free_kv`, where an executor has that: `free_kv() -> None` gives the cache back while no step
        runs, and keeps the weights. An executor may have `warmup(likely) -> None` too: work before the first step, for
        the shapes of `LikelyStep` that will come, most likely first. Both since contract 1.2.
        """

    def submit(self, batch: StepBatch) -> Pending:
        """Starts one step and returns without waiting, up to `async_depth` unread steps deep.

        A step without tokens is legal and does nothing. Steps run in order. The batch's arrays are not changed after
        the call by either side. A call that raises has taken no step, also when KeyboardInterrupt ended it: note a step
        as unread as the last thing.
        """

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`, ordered behind every submitted step: none of them sees the new pages."""

    def close(self) -> None:
        """Frees everything; safe to call twice, and with steps in flight, whose results then say so."""


@dataclass(frozen=True, slots=True)
class LikelyStep:
    """A step that will come: so many tokens of so many sequences. Since contract 1.2."""

    num_tokens: int
    num_seqs: int


@dataclass(frozen=True, slots=True)
class StepContext:
    """What kernels of an op library see of the step, beside their operands.

    Attributes:
        batch: the step.
        block_size: tokens per block.
        device: arrays of the step put on the device once: "positions" i32 [T] and, per group G,
            "G.block_tables" i32 [S, B], "G.slots" i32 [T]; "query_start_loc" i32 [S+1], "num_computed" i32 [S],
            "seq_lens" i32 [S], "seq_ids" i32 [T], "kv_index" i32 [T].
    """

    batch: StepBatch
    block_size: int
    device: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CacheHandle:
    """A cache value at run time: layer slot `slot` of `group`, whose arrays belong to the op library."""

    group: str
    slot: int
    arrays: Mapping[str, Any]


Kernel = Callable[[StepContext, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
"""kernel(context, inputs, weights) -> outputs; absent optional operands are None. A cache is returned as it came."""


class OpLibrary(Protocol):
    """A device's side of the contract at op level: arrays, caches and a lowering for the ops it has."""

    capabilities: Capabilities
    name: str

    def put(self, array: np.ndarray, dtype: str | None = None) -> Any:
        """A host array on the device, converted to `dtype` ("float32", "bfloat16", "int32", ...) where given."""

    def get(self, array: Any) -> np.ndarray:
        """A device array on the host."""

    def put_weight(self, weight: Weight, array: np.ndarray, dtype: str) -> Any:
        """A weight on the device in the form its kernels want (packed, transposed, ...)."""

    def create_cache(
        self, group: KVGroupSpec, axis_sizes: Mapping[str, int], num_blocks: int, block_size: int, dtype: str
    ) -> Mapping[str, Any]:
        """Arrays of one layer slot, by array name; content is arbitrary and must not leak before it is written."""

    def copy_blocks(self, cache: Mapping[str, Any], copies: I32) -> None:
        """Copies blocks [n, 2] (source, destination) inside one layer slot's arrays."""

    def read_blocks(self, cache: Mapping[str, Any], block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages of one layer slot in the host format: name -> [n, block_size, *shape_per_token]."""

    def write_blocks(self, cache: Mapping[str, Any], block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:
        """A callable for this node, or None where the library has none (the reference takes over, announced).

        Must not return None for ops that take or return a cache.
        """

    def memory(self) -> tuple[int, int]:
        """(bytes in use by this library, bytes free on the device)."""


class QuantizedLibrary(OpLibrary, Protocol):
    """An op library that declares `weight_schemes` beyond "plain"; since contract 1.1."""

    def put_quantized(self, weight: Weight, matrix: QuantizedMatrix, shape: tuple[int, ...]) -> Any:
        """A weight whose scheme is not plain, on the device in the form its kernels want.

        Args:
            matrix: [N, K], from the checkpoint or rounded while loading; copy, never write.
            shape: of the weight: (N, K), or for experts (E, rows, K) with E * rows = N.
        """
