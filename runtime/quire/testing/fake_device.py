"""A fake device: its next token is the last one plus one, so a test can do the model's work in its head.

It keeps its own memory (`fake_pages`), takes steps into a queue and runs them late, from what the batch arrays
hold by then, and faults on everything that the contract forbids. A draw with a temperature or any other sampling
feature goes through the real sampler, from logits that depend on the whole context.

As a plugin it is the device `fake`, which `--device auto` never chooses.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import get_args

import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.device.capabilities import CONTRACT_VERSION, Capabilities, DeviceReport
from quire.device.contract import Executor, ExecutorPlan, KVPlan, LikelyStep, MemoryReport
from quire.device.hookspecs import hookimpl
from quire.device.option_spec import OptionSpec, parse_options
from quire.device.weight_source import LoadProgress, WeightSource
from quire.errors import BackendError
from quire.graph.ir import Axis, CacheKind, Graph, KVGroupSpec, ModelGraph, Part
from quire.sampling.batch import F32, I32, NOT_FINITE, SampleResult, features_used
from quire.sampling.sampler import sample
from quire.testing.fake_faults import FakeFaults, fault_error
from quire.testing.fake_pages import ROOT, FakeDeviceFault, FakePages, extend_chain
from quire.testing.fake_states import read_encoded, read_state, write_encoded, write_states

_PEAK = 4.0  # how far the logit of last + 1 stands above the others' noise in [0, 2)


def fake_model(
    vocab_size: int = 100,
    *,
    windows: Mapping[str, int] | None = None,
    shared_pool: bool = False,
    groups: Mapping[str, KVGroupSpec] | None = None,
) -> ModelGraph:
    """A model that is nothing but its KV groups.

    Args:
        windows: group name -> window, 0 = full, else at least 2; by default one full group.
        shared_pool: all groups take their blocks from one pool "kv", else each from a pool of its own name.
        groups: of any kinds, in place of those.
    """
    groups = groups or {
        name: KVGroupSpec("sliding" if window else "full", window, (), 1, "kv" if shared_pool else name)
        for name, window in (windows or {"full": 0}).items()
    }
    nothing = Part(Graph((), (), (), (), {}), "embed.")
    return ModelGraph(nothing, (), {}, {"vocab": Axis(vocab_size, "pad")}, groups)


def fake_executor(
    model: ModelGraph,
    num_blocks: int,
    *,
    block_size: int = 4,
    max_model_len: int = 64,
    max_num_batched_tokens: int = 64,
    max_num_seqs: int = 16,
    async_depth: int = 2,
    latency_s: float = 0.0,
    verify: bool = True,
) -> tuple[FakeExecutor, KVPlan]:
    """An executor that is loaded and has `num_blocks` KV blocks in every pool, and its KV plan."""
    plan = ExecutorPlan(
        model=model,
        weight_dtype="float32",
        act_dtype="float32",
        kv_dtype="float32",
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        max_logits_rows=max_num_batched_tokens,
    )
    executor = FakeExecutor(plan, async_depth=async_depth, latency_s=latency_s, verify=verify)
    kv_plan = KVPlan(num_blocks={group.pool: num_blocks for group in model.kv_groups.values()})
    executor.allocate_kv(kv_plan)
    return executor, kv_plan


def fake_capabilities(async_depth: int = 2) -> Capabilities:
    """What the fake device declares."""
    return Capabilities(
        contract=CONTRACT_VERSION,
        act_dtypes=("float32",),
        weight_dtypes=("float32", "bfloat16", "float16"),
        kv_dtypes=("float32",),
        block_sizes=(16, 1, 2, 4, 8, 32),
        ops=frozenset(),
        async_depth=async_depth,
        group_kinds=frozenset(get_args(CacheKind)),
        row_determinism="batch_invariant",
        read_write_blocks=True,
    )


@dataclass(slots=True, eq=False)
class FakeStep:
    """A step in the queue; implements `Pending`. `failure` is what its result will be, if not tokens."""

    executor: FakeExecutor
    batch: StepBatch
    ready_s: float
    failure: Exception | None = None
    outcome: StepResult | Exception | None = None
    hangs: bool = False

    def wait(self, timeout_s: float) -> bool:
        """Whether the step is done within so many seconds."""
        if self.hangs:
            return self.executor.closed.wait(timeout_s)
        left_s = max(self.ready_s - time.monotonic(), 0.0)
        time.sleep(min(left_s, timeout_s))
        return left_s <= timeout_s

    def result(self) -> StepResult:
        """Runs the queue up to this step, waits for its time, and gives its tokens or its error."""
        if self.hangs:
            self.executor.closed.wait()
        outcome = self.executor.finish(self)
        time.sleep(max(self.ready_s - time.monotonic(), 0.0))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@dataclass(slots=True, eq=False)
class FakePoison:
    """Blocks to empty, in the queue behind the steps that may still use them."""

    pool: str
    block_ids: I32


@dataclass(slots=True, eq=False)
class FakeExecutor:
    """An executor in host memory that checks its callers.

    Attributes:
        plan: its limits are enforced. async_depth: unread steps it takes.
        latency_s: device time of a step; steps follow one another as on a real queue.
        verify: check every page that a step can see; off for benchmarks of the core.
        memory_blocks: blocks that fit into its memory, over all pools; None = any number.
        faults: calls that fail; steps queued behind a failed one are lost too.
        broken_token: the logits behind this token are NaN; None = behind no token.
        num_submitted: steps taken. closed: `close` was called.
    Raises: FakeDeviceFault from `submit` or `result` when the core breaks the contract.
    """

    plan: ExecutorPlan
    async_depth: int = 2
    latency_s: float = 0.0
    verify: bool = True
    memory_blocks: int | None = None
    faults: FakeFaults = field(default_factory=FakeFaults)
    broken_token: int | None = None
    num_submitted: int = 0
    capabilities: Capabilities = field(init=False)
    _pages: dict[str, FakePages] = field(default_factory=dict)
    _queue: deque[FakeStep | FakePoison] = field(default_factory=deque)
    _num_unread: int = 0
    _busy_until_s: float = 0.0
    _last_tokens: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.capabilities = fake_capabilities(self.async_depth)

    # ---- the contract ---------------------------------------------------------------------------------

    def load(self, weights: WeightSource, progress: LoadProgress) -> MemoryReport:
        """Needs no weights."""
        self.faults.meet("load")
        progress(weights.total_bytes, weights.total_bytes)
        return MemoryReport(bytes_by_purpose={"weights": 0}, available_bytes=2**26)

    def allocate_kv(self, plan: KVPlan) -> None:
        """Poisoned pages for every pool. Raises BackendError when they are more than `memory_blocks`."""
        self.faults.meet("allocate_kv")
        num_blocks = sum(plan.num_blocks.values())
        if self.memory_blocks is not None and num_blocks > self.memory_blocks:
            raise BackendError(
                f"out of memory: {num_blocks} KV blocks", because=f"{self.memory_blocks} fit", hint="fewer blocks"
            )
        states = {group.pool for group in self.plan.model.kv_groups.values() if group.kind == "state"}
        self._pages = {
            pool: FakePages(count, 1 if pool in states else self.plan.block_size)
            for pool, count in plan.num_blocks.items()
        }

    def free_kv(self) -> None:
        """Gives the pages back."""
        self.faults.meet("free_kv")
        self._run_all()
        self._pages = {}

    def warmup(self, likely: Sequence[LikelyStep]) -> None:
        """Has nothing to do."""
        self.faults.meet("warmup")

    def submit(self, batch: StepBatch) -> FakeStep:
        """Queues a step; it runs when its result, or a later one's, is asked for."""
        if self.closed.is_set():
            raise BackendError("the fake device is closed", because="`close` was called")
        if self._num_unread >= self.async_depth:
            raise FakeDeviceFault(f"{self._num_unread + 1} unread steps, async_depth is {self.async_depth}")
        self._check_limits(batch)
        self.num_submitted += 1
        self.faults.meet("submit")
        self._busy_until_s = max(self._busy_until_s, time.monotonic()) + self.latency_s
        step = FakeStep(self, batch, self._busy_until_s)
        kind = self.faults.take("result")
        step.hangs = kind == "hang"
        step.failure = None if kind is None else fault_error(kind, "result")
        self._queue.append(step)
        self._num_unread += 1
        return step

    def read_blocks(self, group: str, block_ids: I32) -> Mapping[str, np.ndarray]:
        """Pages as array name -> [n, 1, block_size]."""
        self.faults.meet("read_blocks")
        self._run_all()
        pages = self._pages_of(group)
        pages.check_ids(block_ids)
        return {name: array[block_ids][:, None].copy() for name, array in pages.arrays().items()}

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        self.faults.meet("write_blocks")
        self._run_all()
        target = self._pages_of(group)
        target.check_ids(block_ids)
        for name, array in target.arrays().items():
            array[block_ids] = pages[name][:, 0]

    def close(self) -> None:
        """Takes no more steps."""
        self.faults.meet("close")
        self.closed.set()

    # ---- for tests ------------------------------------------------------------------------------------

    def encode(self, group: str, block_ids: I32, token_ids: I32) -> None:
        """Writes an encoder's output, which stands for `token_ids`, to the blocks of one sequence of a cross group."""
        self._run_all()
        owner = list(self.plan.model.kv_groups).index(group)
        write_encoded(self._pages_of(group), owner, block_ids, token_ids)

    def poison(self, pool: str, block_ids: I32) -> None:
        """Empties blocks after every step submitted so far."""
        self._queue.append(FakePoison(pool, block_ids))

    # ---- the queue ------------------------------------------------------------------------------------

    def finish(self, step: FakeStep) -> StepResult | Exception:
        """Runs the queue until `step` is done; its tokens, or why there are none."""
        while step.outcome is None:
            self._run_next()
        self._num_unread -= 1
        return step.outcome

    def _run_all(self) -> None:
        while self._queue:
            self._run_next()

    def _run_next(self) -> None:
        item = self._queue.popleft()
        if isinstance(item, FakePoison):
            self._pages[item.pool].poison(item.block_ids)
        elif item.failure is None:
            item.outcome = self._execute(item.batch)
        else:
            item.outcome = item.failure
            self._last_tokens = np.empty(0, np.int32)
            for lost in self._queue:
                if isinstance(lost, FakeStep):
                    lost.failure = BackendError("a step was lost", because=f"one before it failed: {item.failure}")

    def _execute(self, batch: StepBatch) -> StepResult:
        token_ids = self._resolved_token_ids(batch)
        for group, copies in batch.copies.items():
            self._pages_of(group).copy(copies)
        chains_T = self._run_tokens(batch, token_ids) if self.verify else np.zeros(len(token_ids), np.uint64)
        drawn = self._draw(batch, token_ids[batch.logits_indices], chains_T[batch.logits_indices])
        self._last_tokens = drawn.tokens
        num_emitted = np.ones(len(drawn.tokens), np.int32)
        return StepResult(drawn.tokens[:, None], num_emitted, drawn.logprobs, drawn.prompt_logprobs)

    def _resolved_token_ids(self, batch: StepBatch) -> I32:
        """Token ids with -1 replaced by what the step before drew."""
        open_T = np.flatnonzero(batch.token_ids < 0)
        rows = batch.prev_row[np.searchsorted(batch.query_start_loc, open_T, side="right") - 1]
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self._last_tokens)):
            raise FakeDeviceFault(f"prev_row {rows.tolist()} with {len(self._last_tokens)} tokens of the step before")
        token_ids = batch.token_ids.copy()
        token_ids[open_T] = np.maximum(self._last_tokens[rows], 0)
        if len(token_ids) and int(token_ids.max()) >= self._vocab_size:
            raise FakeDeviceFault(f"token id {int(token_ids.max())} in a vocabulary of {self._vocab_size}")
        return token_ids

    def _run_tokens(self, batch: StepBatch, token_ids: I32) -> np.ndarray:
        """Checks what each sequence sees, then writes its tokens; chains uint64 [T]."""
        chains_T = np.zeros(len(token_ids), np.uint64)
        for s, start in enumerate(batch.num_computed.tolist()):
            chain = self._chain_before(batch, s, start)
            for t in range(int(batch.query_start_loc[s]), int(batch.query_start_loc[s + 1])):
                chain = extend_chain(chain, int(token_ids[t]))
                chains_T[t] = chain
        written: dict[str, list[I32]] = {}
        for owner, (name, group) in enumerate(self.plan.model.kv_groups.items()):
            if group.kind == "state":
                write_states(self._pages[group.pool], owner, batch, batch.groups[name], token_ids, chains_T)
            if group.kind in ("state", "cross"):
                continue
            positions = _positions(batch)
            seq_ids = np.repeat(np.arange(batch.num_seqs), np.diff(batch.query_start_loc))
            block_ids = batch.groups[name].block_tables[seq_ids, positions // self.plan.block_size]
            slots = self._slots(name, block_ids, positions)
            self._pages[group.pool].write(owner, slots, token_ids, positions, chains_T)
            written.setdefault(group.pool, []).append(slots)
        for pool, slots_of_groups in written.items():
            slots = np.concatenate(slots_of_groups)
            if len(np.unique(slots)) < len(slots):
                raise FakeDeviceFault(f"a slot of pool {pool} has two writers in one step: {sorted(slots.tolist())}")
        return chains_T

    def _chain_before(self, batch: StepBatch, s: int, start: int) -> int:
        """Chain of sequence s before position `start`, read and checked in every group."""
        chains = {ROOT} if start == 0 else set()
        for owner, (name, group) in enumerate(self.plan.model.kv_groups.items()):
            if group.kind == "state":
                slot = int(batch.groups[name].block_tables[s, 0])
                chains.add(read_state(self._pages[group.pool], owner, slot, start))
                continue
            if group.kind == "cross":
                read_encoded(self._pages[group.pool], owner, batch.groups[name], s)
                continue
            first = max(0, start - group.window + 1) if group.window else 0
            if start > first:
                positions = np.arange(first, start, dtype=np.int32)
                block_ids = batch.groups[name].block_tables[s, positions // self.plan.block_size]
                slots = self._slots(name, block_ids, positions)
                chains.add(self._pages[group.pool].read_chain(owner, slots, first))
        if len(chains) != 1:
            raise FakeDeviceFault(f"the KV groups of sequence {s} hold {len(chains)} different contexts")
        return chains.pop()

    def _slots(self, group: str, block_ids: I32, positions: I32) -> I32:
        if (block_ids < 0).any():
            raise FakeDeviceFault(f"positions {positions[block_ids < 0].tolist()} are not resident in group {group}")
        self._pages_of(group).check_ids(block_ids)
        slots: I32 = block_ids * self.plan.block_size + positions % self.plan.block_size
        return slots

    def _draw(self, batch: StepBatch, token_ids: I32, chains: np.ndarray) -> SampleResult:
        """Draws from logits rows [L] whose last tokens and chains are given."""
        sampling = batch.sampling
        if sampling is None:
            return SampleResult(np.empty(0, np.int32))
        if not features_used(sampling):
            last = token_ids[sampling.rows]
            return SampleResult(
                np.where(last == self.broken_token, NOT_FINITE, (last + 1) % self._vocab_size).astype(np.int32)
            )
        return sample(self._logits(token_ids, chains), sampling)

    def _logits(self, token_ids: I32, chains: np.ndarray) -> F32:
        """float32 [L, vocab]: noise in [0, 2) that depends on the whole context, and a peak at last + 1; or NaN."""
        mixed = chains[:, None] ^ np.arange(1, self._vocab_size + 1, dtype=np.uint64) * np.uint64(ROOT)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        logits = (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)
        logits[np.arange(len(token_ids)), (token_ids + 1) % self._vocab_size] += _PEAK
        logits[token_ids == self.broken_token] = np.nan
        return logits

    def _check_limits(self, batch: StepBatch) -> None:
        plan = self.plan
        if not 0 < batch.num_tokens <= plan.max_num_batched_tokens or not 0 < batch.num_seqs <= plan.max_num_seqs:
            raise FakeDeviceFault(f"a step of {batch.num_tokens} tokens and {batch.num_seqs} sequences")
        if int(batch.query_start_loc[-1]) != batch.num_tokens or (np.diff(batch.query_start_loc) < 1).any():
            raise FakeDeviceFault(f"query_start_loc {batch.query_start_loc.tolist()} of {batch.num_tokens} tokens")
        if int(batch.seq_lens.max()) > plan.max_model_len or int(batch.num_computed.min()) < 0:
            raise FakeDeviceFault(f"sequences of {batch.seq_lens.tolist()} tokens, max_model_len={plan.max_model_len}")
        indices = batch.logits_indices
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= batch.num_tokens):
            raise FakeDeviceFault(f"logits_indices {indices.tolist()} of {batch.num_tokens} tokens")

    @property
    def _vocab_size(self) -> int:
        return self.plan.model.axes["vocab"].size

    def _pages_of(self, group: str) -> FakePages:
        return self._pages[self.plan.model.kv_groups[group].pool]


def _positions(batch: StepBatch) -> I32:
    """int32 [T], KV index of each token."""
    lengths = np.diff(batch.query_start_loc)
    offsets = np.arange(batch.num_tokens) - np.repeat(batch.query_start_loc[:-1], lengths)
    return (np.repeat(batch.num_computed, lengths) + offsets).astype(np.int32)


# ---- the plugin -----------------------------------------------------------------------------------------

QUIRE_CONTRACT = (1, 2)
"""Version of the device contract this module is written for; read before any hook is called."""

OPTION_SPECS = (
    OptionSpec(name="async_depth", type="integer", help="steps in flight", default="2", least=1, most=64),
    OptionSpec(name="latency_ms", type="number", help="time of a step", default="0", least=0, most=1e6),
    OptionSpec(name="memory_blocks", type="integer", help="KV blocks that fit", default="any number", least=0),
    OptionSpec(
        name="faults", type="text", help="calls that fail, such as submit@3=fatal,result@*=step", default="none fails"
    ),
)

_faults_of = lru_cache(FakeFaults.parse)
"""One count for all executors of this process that are given the same text: the second one meets what comes after."""


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Always here, and never the best choice."""
    return DeviceReport(
        available=True, name="no hardware: the next token is the last one plus one", num_devices=1, priority=-1000
    )


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    given = parse_options(device, OPTION_SPECS, options)
    return fake_capabilities(given.get("async_depth", 2))


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    return OPTION_SPECS


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    given = parse_options(device, OPTION_SPECS, plan.options)
    faults = _faults_of(given.get("faults", ""))
    faults.meet("create")
    return FakeExecutor(
        plan,
        async_depth=given.get("async_depth", 2),
        latency_s=given.get("latency_ms", 0.0) / 1000.0,
        memory_blocks=given.get("memory_blocks"),
        faults=faults,
    )
