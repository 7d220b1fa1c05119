"""Drives an executor through steps by hand, block by block, as the engine would.

Blocks are handed out in shuffled order. Blocks that leave a sliding window, or belong to a released line, become
-1 in the tables, are filled with NaN where the device lets the host write pages, and are used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quire.device.batch import GroupBatch, StepBatch, StepResult
from quire.device.contract import Executor, ExecutorPlan, MemoryReport, Pending
from quire.device.dtypes import numpy_dtype
from quire.graph.kv_arrays import QUANTIZED_KV_DTYPES, held_arrays
from quire.graph.shapes import concrete
from quire.sampling.batch import I32, SamplingBatch


@dataclass(slots=True, eq=False)
class Line:
    """One sequence: its tokens (-1 = not known to the host), its blocks by group, and the logits of its tokens."""

    tokens: list[int]
    tables: dict[str, list[int]]
    num_computed: int = 0
    logits: list[np.ndarray] = field(default_factory=list)

    def all_logits(self) -> np.ndarray:
        """float32 [tokens so far, vocab]."""
        return np.stack(self.logits)


Chunk = tuple[Line, int]
"""A line and how many of its tokens the step takes."""


class StepDriver:
    """Owns the block ids of an executor.

    Attributes:
        executor, plan: as created. memory: what `load` reported.
        free: pool -> block ids that no line has. poisons: idle pages are filled with NaN.
    """

    def __init__(
        self,
        executor: Executor,
        plan: ExecutorPlan,
        num_blocks: int,
        memory: MemoryReport,
        *,
        seed: int = 0,
        poison: bool = False,
    ) -> None:
        self.executor, self.plan, self.memory = executor, plan, memory
        self._groups = plan.model.kv_groups
        rng = np.random.default_rng(seed)
        pools = sorted({group.pool for group in self._groups.values()})
        self.free = {pool: [int(block) for block in rng.permutation(num_blocks)] for pool in pools}
        self.poisons, self._step = poison, 0
        if poison:
            for pool, blocks in self.free.items():
                self.poison(pool, blocks)

    def line(self, tokens: Sequence[int]) -> Line:
        """A new sequence without blocks."""
        return Line(list(tokens), {name: [] for name in self._groups})

    def fork(self, line: Line, tokens: Sequence[int]) -> tuple[Line, dict[str, I32]]:
        """A line that goes on from where `line` is: full blocks shared, the partly filled one to be copied.

        Returns it with the `copies` that the next step must carry.
        """
        size = self.plan.block_size
        forked = Line([*line.tokens[: line.num_computed], *tokens], {}, line.num_computed)
        copies: dict[str, I32] = {}
        for name, table in line.tables.items():
            forked.tables[name] = list(table)
            if line.num_computed % size:
                index = line.num_computed // size
                forked.tables[name][index] = self._take(name)
                copies[name] = np.array([[table[index], forked.tables[name][index]]], np.int32)
        return forked, copies

    def run(self, chunks: Sequence[Chunk], **fields: Any) -> StepResult:
        """One step; its logits are appended to the lines, its result returned."""
        pending, scheduled = self.submit(chunks, **fields)
        return self.read(pending, scheduled)

    def submit(self, chunks: Sequence[Chunk], **fields: Any) -> tuple[Pending, list[Chunk]]:
        """Starts a step and counts its tokens as computed; `read` fetches it."""
        batch = self.batch(chunks, **fields)
        pending = self.executor.submit(batch)
        self._step += 1
        for line, count in chunks:
            line.num_computed += count
        return pending, list(chunks)

    def read(self, pending: Pending, chunks: Sequence[Chunk]) -> StepResult:
        """Waits for a step of all rows' logits."""
        result = pending.result()
        if result.logits is None:
            raise ValueError("the step returned no logits although the plan says return_logits")
        row = 0
        for line, count in chunks:
            line.logits.extend(np.asarray(result.logits[row : row + count], np.float32))
            row += count
        return result

    def batch(self, chunks: Sequence[Chunk], **fields: Any) -> StepBatch:
        """The step's arrays: every row's logits, greedy sampling of each line's last row."""
        for line, count in chunks:
            self._extend(line, line.num_computed + count)
        ends = np.cumsum([0, *(count for _, count in chunks)]).astype(np.int32)
        token_ids = [token for line, count in chunks for token in line.tokens[line.num_computed :][:count]]
        if len(token_ids) != ends[-1]:
            raise ValueError(f"the lines have {len(token_ids)} tokens left for a step of {int(ends[-1])}")
        values: dict[str, Any] = {
            "step": self._step,
            "token_ids": np.array(token_ids, np.int32),
            "query_start_loc": ends,
            "num_computed": np.array([line.num_computed for line, _ in chunks], np.int32),
            "prev_row": np.full(len(chunks), -1, np.int32),
            "groups": {name: GroupBatch(_table([line.tables[name] for line, _ in chunks])) for name in self._groups},
            "logits_indices": np.arange(ends[-1], dtype=np.int32),
            "sampling": greedy(ends[1:] - 1, [line.num_computed + count for line, count in chunks]),
        }
        return StepBatch(**{**values, **fields})

    def release(self, line: Line) -> None:
        """The line's blocks go back and are poisoned."""
        for name, table in line.tables.items():
            pool = self._groups[name].pool
            blocks = [block for block in table if block >= 0]
            self.free[pool] += blocks
            if self.poisons:
                self.poison(pool, blocks)
        line.tables = {name: [] for name in self._groups}

    def poison(self, pool: str, blocks: Sequence[int]) -> None:
        """Fills blocks with NaN in every group of the pool."""
        for name, group in self._groups.items():
            if group.pool == pool and blocks:
                self.executor.write_blocks(name, np.array(blocks, np.int32), self.pages(name, len(blocks), np.nan))

    def pages(self, group: str, num_blocks: int, value: float) -> dict[str, np.ndarray]:
        """Pages of one value in the host format; for NaN, quantized elements are 0: their scales are NaN."""
        spec, sizes = self._groups[group], self.plan.model.axis_sizes()
        shape = (num_blocks, spec.layers, self.plan.block_size)
        return {
            array.name: np.full(
                (*shape, *concrete(array.shape, sizes)),
                np.nan_to_num(value) if array.dtype in QUANTIZED_KV_DTYPES else value,
                numpy_dtype(array.dtype),
            )
            for array in held_arrays(spec, self.plan.kv_dtype)
        }

    def _extend(self, line: Line, num_tokens: int) -> None:
        size = self.plan.block_size
        for name, group in self._groups.items():
            table = line.tables[name]
            if group.window:
                first_seen = max(0, line.num_computed - group.window + 1)
                left = [i for i in range(min(first_seen // size, len(table))) if table[i] >= 0]
                self.free[group.pool] += [table[i] for i in left]
                if self.poisons and left:
                    self.poison(group.pool, [table[i] for i in left])
                for index in left:
                    table[index] = -1
            while len(table) * size < num_tokens:
                table.append(self._take(name))

    def _take(self, group: str) -> int:
        return self.free[self._groups[group].pool].pop(0)


def greedy(rows: np.ndarray, positions: Sequence[int]) -> SamplingBatch:
    """The most likely token of each row."""
    count = len(rows)
    return SamplingBatch(
        rows=rows.astype(np.int32),
        temperature=np.zeros(count, np.float32),
        seed=np.zeros(count, np.uint64),
        sequence_index=np.zeros(count, np.uint32),
        position=np.array(positions, np.int32),
    )


def _table(tables: Sequence[Sequence[int]]) -> I32:
    padded = np.full((len(tables), max(map(len, tables))), -1, np.int32)
    for row, table in enumerate(tables):
        padded[row, : len(table)] = table
    return padded
