"""Drives an executor of any device through the steps of a few sequences, block by block, as the engine would.

    loaded = load_model(folder, "cpu")
    logits, tokens = run_greedy(loaded, prompt, num_tokens=32, chunks=random_chunks(rng))

Blocks are handed out in shuffled order, a sliding group's blocks are taken back as they leave its window (their
ids are -1 in the tables and go to the next sequence that needs one), and logits are asked for at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from quire.device.batch import GroupBatch, StepBatch
from quire.device.contract import Executor, ExecutorPlan, KVPlan
from quire.device.registry import resolve_device
from quire.engine.quantization import choose_schemes
from quire.graph.ir import ModelGraph
from quire.graph.passes import optimize
from quire.models import build_model
from quire.sampling.batch import SamplingBatch
from quire.weights import open_checkpoint, open_weights

FRAMEWORKS = {"torch": "torch", "tpu": "jax"}
"""What a device needs beside Quire; a test of a device whose framework is not installed is skipped."""

Chunks = Callable[[int], int]
"""chunks(tokens left of the prompt) -> how many the next step takes."""


@dataclass
class LoadedModel:
    """An executor that holds weights and cache, and what the driver needs to know of its model."""

    executor: Executor
    model: ModelGraph
    block_size: int
    num_blocks: int


def load_model(
    folder: Path,
    device: str,
    *,
    dtype: str = "float32",
    block_size: int = 4,
    num_blocks: int = 64,
    max_model_len: int = 128,
    max_num_batched_tokens: int | None = None,
    fused_ops: frozenset[str] | None = None,
    quantization: str | None = None,
    as_stored: bool = True,
    options: Mapping[str, str] | None = None,
    return_logits: bool = True,
    max_logits_rows: int = 64,
) -> LoadedModel:
    """The checkpoint on a device of the registry, through the passes the device declares (or `fused_ops`).

    A device without blocks of `block_size` gets the smallest it has. A step holds `max_model_len` tokens where
    `max_num_batched_tokens` does not say otherwise. Matrices that are stored as integers stay so, as far as the
    device has kernels for them; all are dequantized with as_stored=False.
    """
    if device in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[device], reason=f"{FRAMEWORKS[device]}, which {device} needs, is not installed")
    spec = build_model(folder)
    backend = resolve_device(device, options or {})
    if block_size not in backend.capabilities.block_sizes:
        block_size = min(backend.capabilities.block_sizes)
    files = open_checkpoint(folder)
    schemes = choose_schemes(spec, files if as_stored else None, quantization, backend.capabilities)
    model = optimize(schemes.model, backend.capabilities.fused_ops if fused_ops is None else fused_ops)
    plan = ExecutorPlan(
        model=model,
        weight_dtype=dtype,
        act_dtype=dtype,
        kv_dtype=dtype,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens or max_model_len,
        max_num_seqs=8,
        max_logits_rows=max_logits_rows,
        return_logits=return_logits,
        options=options or {},
    )
    executor = backend.create_executor(plan)
    weights = open_weights(files, model, ignorable_tensors=spec.ignorable_tensors)
    executor.load(weights, lambda done, total: None)
    pools = {group.pool for group in model.kv_groups.values()}
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys(pools, num_blocks)))
    return LoadedModel(executor, model, block_size, num_blocks)


def one_chunk(left: int) -> int:
    """The whole prompt in one step."""
    return left


def random_chunks(rng: np.random.Generator, most: int = 7) -> Chunks:
    """Chunks of 1 to `most` tokens."""
    return lambda left: int(min(left, rng.integers(1, most + 1)))


def run_greedy(
    loaded: LoadedModel, prompt: Sequence[int], num_tokens: int, chunks: Chunks = one_chunk, *, seed: int = 0
) -> tuple[np.ndarray, list[int]]:
    """Greedy generation of one prompt: logits float32 [prompt + num_tokens - 1, vocab] of every token, and tokens."""
    return run_greedy_batch(loaded, [prompt], num_tokens, chunks, seed=seed)[0]


def run_greedy_batch(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], num_tokens: int, chunks: Chunks = one_chunk, *, seed: int = 0
) -> list[tuple[np.ndarray, list[int]]]:
    """As `run_greedy`, for prompts that share steps; each joins one step after the one before it."""
    rng = np.random.default_rng(seed)
    pools = {group.pool for group in loaded.model.kv_groups.values()}
    free = {pool: [int(block) for block in rng.permutation(loaded.num_blocks)] for pool in pools}
    sequences = [
        _Sequence(list(prompt), len(prompt) + num_tokens, {name: [] for name in loaded.model.kv_groups})
        for prompt in prompts
    ]
    step = 0
    while any(not sequence.finished for sequence in sequences):
        running = [sequence for sequence in sequences[: step + 1] if not sequence.finished]
        scheduled = [(running[index], chunks(running[index].num_pending)) for index in rng.permutation(len(running))]
        for sequence, count in scheduled:
            _extend_tables(loaded, sequence, sequence.num_computed + count, free)
        result = loaded.executor.submit(_batch(loaded, scheduled, step)).result()
        assert result.logits is not None
        start, row = 0, 0
        for sequence, count in scheduled:
            sequence.logits.extend(result.logits[start : start + count])
            start += count
            sequence.num_computed += count
            if sequence.num_pending == 0:
                sequence.tokens.append(int(result.tokens[row, 0]))
                row += 1
        step += 1
    return [
        (np.stack(sequence.logits), sequence.tokens[len(prompt) :])
        for sequence, prompt in zip(sequences, prompts, strict=True)
    ]


@dataclass(eq=False)
class _Sequence:
    tokens: list[int]
    target_len: int
    tables: dict[str, list[int]]
    num_computed: int = 0
    logits: list[np.ndarray] = field(default_factory=list)

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def finished(self) -> bool:
        return len(self.tokens) >= self.target_len


def _extend_tables(loaded: LoadedModel, sequence: _Sequence, num_tokens: int, free: dict[str, list[int]]) -> None:
    """Blocks for `num_tokens` tokens; blocks that no coming query sees go back, and are used again last."""
    for name, group in loaded.model.kv_groups.items():
        table, pool = sequence.tables[name], free[group.pool]
        if group.window:
            first_seen = max(0, sequence.num_computed - group.window + 1)
            for index in range(min(first_seen // loaded.block_size, len(table))):
                if table[index] >= 0:
                    pool.append(table[index])
                    table[index] = -1
        while len(table) * loaded.block_size < num_tokens:
            table.append(pool.pop(0))


def _batch(loaded: LoadedModel, scheduled: Sequence[tuple[_Sequence, int]], step: int) -> StepBatch:
    """One step: all rows' logits, greedy sampling of the sequences whose last known token is in it."""
    counts = [count for _, count in scheduled]
    starts = np.cumsum([0, *counts]).astype(np.int32)
    groups = {}
    for name in loaded.model.kv_groups:
        tables = [sequence.tables[name] for sequence, _ in scheduled]
        padded = np.full((len(tables), max(map(len, tables))), -1, np.int32)
        for row, table in enumerate(tables):
            padded[row, : len(table)] = table
        groups[name] = GroupBatch(padded)
    sampled = [index for index, (sequence, count) in enumerate(scheduled) if count == sequence.num_pending]
    sampling = SamplingBatch(
        rows=(starts[1:][sampled] - 1).astype(np.int32),
        temperature=np.zeros(len(sampled), np.float32),
        seed=np.zeros(len(sampled), np.uint64),
        sequence_index=np.zeros(len(sampled), np.uint32),
        position=np.array([len(scheduled[index][0].tokens) for index in sampled], np.int32),
    )
    return StepBatch(
        step=step,
        token_ids=np.array(
            [token for sequence, count in scheduled for token in sequence.tokens[sequence.num_computed :][:count]],
            np.int32,
        ),
        query_start_loc=starts,
        num_computed=np.array([sequence.num_computed for sequence, _ in scheduled], np.int32),
        prev_row=np.full(len(scheduled), -1, np.int32),
        groups=groups,
        logits_indices=np.arange(starts[-1], dtype=np.int32),
        sampling=sampling if sampled else None,
    )
