"""State caches: one slot for a sequence, which a step reads and then writes.

A block of the pool is a slot. A step writes to the slot that it read unless somebody else needs that one: a fork, or
the prefix cache, for which the state at a checkpoint is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.device.batch import I32, GroupBatch
from quire.graph.ir import KVGroupSpec
from quire.graph.kv_budget import state_slots
from quire.kv.block_pool import BlockPool
from quire.kv.kinds.group import KVGroup, TableLimits
from quire.kv.sequence_blocks import SequenceBlocks


class StateGroup(KVGroup):
    """Every sequence has a slot with its state after the tokens that were planned so far.

    A fork reads its parent's slot and writes to one of its own, which is the copy. A prefix hit ends at a checkpoint:
    the state exactly there must be cached. Checkpoints are taken where a step ends on a multiple of
    `spec.checkpoint_every` blocks.

    Attributes:
        tables: int32 [rows, 1], the slot that the step reads, -1 = zeros.
        write_slots: int32 [rows, 1], the slot that it writes.
    """

    hits_are_closed = False
    moves_every_step = True

    def __init__(self, name: str, spec: KVGroupSpec, pool: BlockPool, tag: bytes, limits: TableLimits) -> None:
        super().__init__(name, spec, pool, tag, limits)
        self.tables = np.full((limits.num_rows, 1), -1, np.int32)
        self.write_slots = np.full((limits.num_rows, 1), -1, np.int32)
        self._num_tokens = [0] * limits.num_rows  # of the state in the write slot
        self._checkpoints: dict[int, tuple[int, int]] = {}  # row -> (blocks, slot), until it is offered
        self.checkpoint_every = spec.checkpoint_every if limits.keeps_prefixes else 0

    def most_blocks(self, num_tokens: int, num_encoder_tokens: int) -> int:
        return state_slots(self.spec)

    def room_needed(self, num_hit: int, hashes: Sequence[bytes], num_tokens: int, num_encoder_tokens: int) -> int:
        return state_slots(self.spec)

    def longest_prefix(self, hashes: Sequence[bytes], num_blocks: int) -> int:
        """The state at exactly that boundary must be there."""
        every = self.checkpoint_every
        if not every:
            return 0
        ends = range(num_blocks - num_blocks % every, 0, -every)
        return next((end for end in ends if self.find(hashes[end - 1]) is not None), 0)

    def open(self, blocks: SequenceBlocks, hashes: Sequence[bytes]) -> None:
        self._num_tokens[blocks.row] = blocks.num_slots
        if not blocks.num_blocks:
            return
        slot = self.find(hashes[blocks.num_blocks - 1])
        assert slot is not None, "a prefix hit was not used at once"
        self.pool.acquire(slot)
        self.tables[blocks.row] = self.write_slots[blocks.row] = slot

    def release_unseen(self, blocks: SequenceBlocks, num_computed: int) -> None:
        """The slot that the step before read, where it wrote to another."""
        read, written = self._slots(blocks)
        if read != written and read >= 0:
            self.pool.release(read)
        self.tables[blocks.row] = written

    def blocks_to_take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> int:
        return int(not self._is_own(blocks, num_computed))

    def take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> None:
        if not self._is_own(blocks, num_computed):
            slot = int(self.write_slots[blocks.row, 0])
            if self._is_open_checkpoint(blocks, num_computed):
                self._drop_checkpoint(blocks)
                self._checkpoints[blocks.row] = (num_computed // self._limits.block_size, slot)
                self.pool.acquire(slot)
            self.write_slots[blocks.row] = self.pool.allocate()
        self._num_tokens[blocks.row] = num_computed + num_new

    def offer(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        row, every = blocks.row, self.checkpoint_every
        if row in self._checkpoints and self._checkpoints[row][0] <= num_blocks:
            end, slot = self._checkpoints[row]
            self.pool.register(slot, self.key(hashes[end - 1]))
            self._drop_checkpoint(blocks)
        elif every and not num_blocks % every and self._num_tokens[row] == num_blocks * self._limits.block_size:
            self.pool.register(int(self.write_slots[row, 0]), self.key(hashes[num_blocks - 1]))

    def held(self, blocks: SequenceBlocks) -> list[int]:
        read, written = self._slots(blocks)
        slots = [written] if read == written else [read, written]
        if blocks.row in self._checkpoints:
            slots.append(self._checkpoints[blocks.row][1])
        return [slot for slot in slots if slot >= 0]

    def fork(self, parent: SequenceBlocks, child: SequenceBlocks) -> None:
        slot = int(self.write_slots[parent.row, 0])
        self.pool.acquire(slot)
        self.tables[child.row] = self.write_slots[child.row] = slot
        self._num_tokens[child.row] = self._num_tokens[parent.row]

    def free(self, blocks: SequenceBlocks) -> None:
        for slot in self.held(blocks):
            self.pool.release(slot)
        self._checkpoints.pop(blocks.row, None)
        self.tables[blocks.row] = self.write_slots[blocks.row] = -1

    def batch(self, rows: I32, num_blocks: int) -> GroupBatch:
        return GroupBatch(self.tables.take(rows, axis=0), write_slots=self.write_slots.take(rows, axis=0))

    def _slots(self, blocks: SequenceBlocks) -> tuple[int, int]:
        return int(self.tables[blocks.row, 0]), int(self.write_slots[blocks.row, 0])

    def _is_own(self, blocks: SequenceBlocks, num_computed: int) -> bool:
        """Whether a step may write over the state it reads."""
        slot = int(self.write_slots[blocks.row, 0])
        if slot < 0 or self.pool.ref_count(slot) > 1 or self.pool.key_of(slot) is not None:
            return False
        return not self._is_open_checkpoint(blocks, num_computed)

    def _is_open_checkpoint(self, blocks: SequenceBlocks, num_computed: int) -> bool:
        """Whether the state at `num_computed` is to be offered, and was not yet."""
        every = self.checkpoint_every * self._limits.block_size
        if not every or not num_computed or num_computed % every:
            return False
        return num_computed // self._limits.block_size > blocks.num_offered

    def _drop_checkpoint(self, blocks: SequenceBlocks) -> None:
        if blocks.row in self._checkpoints:
            self.pool.release(self._checkpoints.pop(blocks.row)[1])
