"""Cross caches: an encoder's tokens, written once before the first step and read by every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.device.batch import I32, GroupBatch
from quire.graph.ir import KVGroupSpec
from quire.kv.block_pool import BlockPool
from quire.kv.kinds.group import KVGroup, TableLimits
from quire.kv.sequence_blocks import SequenceBlocks


class CrossGroup(KVGroup):
    """Blocks for `num_encoder_tokens`, taken with the first tokens. Forks share them, since nobody writes again.

    A prefix hit of the other groups says nothing here: the encoder's output is written again for a new sequence.

    Attributes:
        lens: int32 [rows], tokens of the encoder's output.
    """

    def __init__(self, name: str, spec: KVGroupSpec, pool: BlockPool, tag: bytes, limits: TableLimits) -> None:
        super().__init__(name, spec, pool, tag, limits)
        self.tables = np.full((limits.num_rows, limits.max_blocks), -1, np.int32)
        self.lens: I32 = np.zeros(limits.num_rows, np.int32)

    def most_blocks(self, num_tokens: int, num_encoder_tokens: int) -> int:
        return -(-num_encoder_tokens // self._limits.block_size)

    def room_needed(self, num_hit: int, hashes: Sequence[bytes], num_tokens: int, num_encoder_tokens: int) -> int:
        return self.most_blocks(num_tokens, num_encoder_tokens)

    def longest_prefix(self, hashes: Sequence[bytes], num_blocks: int) -> int:
        return num_blocks

    def open(self, blocks: SequenceBlocks, hashes: Sequence[bytes]) -> None:
        self.lens[blocks.row] = blocks.num_encoder_tokens

    def blocks_to_take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> int:
        return 0 if self.held(blocks) else self._num_blocks(blocks)

    def take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> None:
        for index in range(self.blocks_to_take(blocks, num_computed, num_new)):
            self.tables[blocks.row, index] = self.pool.allocate()

    def offer(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        """Not to be found: see the class."""

    def held(self, blocks: SequenceBlocks) -> list[int]:
        entries: list[int] = self.tables[blocks.row, : self._num_blocks(blocks)].tolist()
        return [block_id for block_id in entries if block_id >= 0]

    def fork(self, parent: SequenceBlocks, child: SequenceBlocks) -> None:
        self.tables[child.row], self.lens[child.row] = self.tables[parent.row], self.lens[parent.row]
        for block_id in self.held(parent):
            self.pool.acquire(block_id)

    def free(self, blocks: SequenceBlocks) -> None:
        for block_id in self.held(blocks):
            self.pool.release(block_id)
        self.tables[blocks.row], self.lens[blocks.row] = -1, 0

    def batch(self, rows: I32, num_blocks: int) -> GroupBatch:
        lens = self.lens.take(rows)
        width = -(-int(lens.max()) // self._limits.block_size)
        return GroupBatch(self.tables[:, :width].take(rows, axis=0), lens=lens)

    def _num_blocks(self, blocks: SequenceBlocks) -> int:
        return -(-blocks.num_encoder_tokens // self._limits.block_size)
