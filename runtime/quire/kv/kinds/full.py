"""Full caches: every token of a sequence stays, in a block table that grows with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.device.batch import I32, GroupBatch
from quire.graph.ir import KVGroupSpec
from quire.kv.block_pool import BlockPool
from quire.kv.kinds.group import KVGroup, TableLimits
from quire.kv.sequence_blocks import SequenceBlocks

FIRST_TABLE_BLOCKS = 256
"""Columns of a new block table."""


class FullGroup(KVGroup):
    """Blocks are shared by prefix hits (full blocks, never written again) and by forks.

    A fork's partly filled last block is copied by the first one that writes to it while it is shared. Table rows
    change in place as blocks come and go; a table grows with the longest sequence so far, by a new array.
    """

    holds_tokens = True

    def __init__(self, name: str, spec: KVGroupSpec, pool: BlockPool, tag: bytes, limits: TableLimits) -> None:
        super().__init__(name, spec, pool, tag, limits)
        columns = min(limits.max_blocks, FIRST_TABLE_BLOCKS)
        self.tables = np.full((limits.num_rows, columns), -1, np.int32)
        self._block_size = limits.block_size
        self._copies: list[tuple[int, int]] = []
        self._pinned: dict[int, int] = {}  # copy source -> references held until the step is built

    def first_seen_block(self, num_computed: int) -> int:
        """Index of the first block that a query at `num_computed` or later can see."""
        return 0

    def most_blocks(self, num_tokens: int, num_encoder_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def room_needed(self, num_hit: int, hashes: Sequence[bytes], num_tokens: int, num_encoder_tokens: int) -> int:
        first = self.first_seen_block(num_hit * self._block_size)
        found = [self.find(block_hash) for block_hash in hashes[first:num_hit]]
        num_in_use = sum(block_id is not None and self.pool.ref_count(block_id) > 0 for block_id in found)
        num_total = -(-num_tokens // self._block_size)
        return max(0, min(num_total - first, self.most_blocks(num_tokens, 0)) - num_in_use)

    def longest_prefix(self, hashes: Sequence[bytes], num_blocks: int) -> int:
        """Every block must be there."""
        return next((i for i in range(num_blocks) if self.find(hashes[i]) is None), num_blocks)

    def open(self, blocks: SequenceBlocks, hashes: Sequence[bytes]) -> None:
        self._widen(blocks.num_blocks)
        for index in range(self.first_seen_block(blocks.num_slots), blocks.num_blocks):
            block_id = self.find(hashes[index])
            assert block_id is not None, "a prefix hit was not used at once"
            self.pool.acquire(block_id)
            self.tables[blocks.row, index] = block_id

    def blocks_to_take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> int:
        num_fresh = max(0, -(-(num_computed + num_new) // self._block_size) - blocks.num_blocks)
        return num_fresh + self._shares_tail(blocks, num_computed)

    def take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> None:
        if self._shares_tail(blocks, num_computed):
            self._copy_on_write(blocks, num_computed // self._block_size)
        num_blocks = -(-(num_computed + num_new) // self._block_size)
        self._widen(num_blocks)
        for index in range(blocks.num_blocks, num_blocks):
            self.tables[blocks.row, index] = self.pool.allocate()

    def offer(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        table = self.tables[blocks.row]
        for index in range(max(blocks.num_offered, self._first_resident(blocks)), num_blocks):
            self.pool.register(int(table[index]), self.key(hashes[index]))

    def held(self, blocks: SequenceBlocks) -> list[int]:
        resident: list[int] = self.tables[blocks.row, self._first_resident(blocks) : blocks.num_blocks].tolist()
        return resident

    def fork(self, parent: SequenceBlocks, child: SequenceBlocks) -> None:
        self.tables[child.row] = self.tables[parent.row]
        for block_id in self.held(parent):
            self.pool.acquire(block_id)

    def free(self, blocks: SequenceBlocks) -> None:
        for block_id in reversed(self.held(blocks)):  # the deepest is the first to be evicted
            self.pool.release(block_id)
        self.tables[blocks.row, : blocks.num_blocks] = -1

    def take_copies(self) -> list[tuple[int, int]]:
        if not self._copies:
            return []
        copies, self._copies = self._copies, []
        for source, _ in copies:
            self.pool.release(source)
        self._pinned.clear()
        return copies

    def batch(self, rows: I32, num_blocks: int) -> GroupBatch:
        return GroupBatch(self.tables[:, :num_blocks].take(rows, axis=0))

    def _first_resident(self, blocks: SequenceBlocks) -> int:
        return 0

    def _widen(self, num_blocks: int) -> None:
        """Room in every row for `num_blocks` blocks."""
        width = self.tables.shape[1]
        if num_blocks <= width:
            return
        wider = np.full((len(self.tables), min(self._limits.max_blocks, max(2 * width, num_blocks))), -1, np.int32)
        wider[:, :width] = self.tables
        self.tables = wider

    def _shares_tail(self, blocks: SequenceBlocks, num_computed: int) -> bool:
        """Whether the block that `num_computed` falls into is partly filled and referenced by another sequence."""
        if not blocks.may_share_tail or num_computed % self._block_size == 0:
            return False
        block_id = int(self.tables[blocks.row, num_computed // self._block_size])
        return self.pool.ref_count(block_id) - self._pinned.get(block_id, 0) > 1

    def _copy_on_write(self, blocks: SequenceBlocks, index: int) -> None:
        """The source keeps a reference until the step is built, so no block is source and destination in one step."""
        source = int(self.tables[blocks.row, index])
        destination = self.pool.allocate()
        self.tables[blocks.row, index] = destination
        self._copies.append((source, destination))
        self._pinned[source] = self._pinned.get(source, 0) + 1  # the sequence's own reference becomes the pin
