"""Sliding caches: a sequence's last tokens stay; blocks that left the window are given back."""

from __future__ import annotations

from collections.abc import Sequence

from quire.kv.kinds.full import FullGroup
from quire.kv.sequence_blocks import SequenceBlocks


class SlidingGroup(FullGroup):
    """As a full group inside the window of `spec.window` tokens; entries before it are -1."""

    hits_are_closed = False

    def first_seen_block(self, num_computed: int) -> int:
        return max(0, num_computed - self.spec.window + 1) // self._block_size

    def most_blocks(self, num_tokens: int, num_encoder_tokens: int) -> int:
        span = self.spec.window - 1 + self._limits.max_new_tokens  # consecutive tokens that are resident in one step
        return min(-(-num_tokens // self._block_size), (span + self._block_size - 2) // self._block_size + 1)

    def longest_prefix(self, hashes: Sequence[bytes], num_blocks: int) -> int:
        """The blocks that reach into the window before the prefix's end must be there."""
        while num_blocks > 0:
            first = self.first_seen_block(num_blocks * self._block_size)
            needed = range(num_blocks - 1, first - 1, -1)
            missing = next((i for i in needed if self.find(hashes[i]) is None), None)
            if missing is None:
                break
            num_blocks = missing  # every longer prefix has the missing block in its window too
        return num_blocks

    def open(self, blocks: SequenceBlocks, hashes: Sequence[bytes]) -> None:
        blocks.first_resident[self.name] = min(self.first_seen_block(blocks.num_slots), blocks.num_blocks)
        super().open(blocks, hashes)

    def release_unseen(self, blocks: SequenceBlocks, num_computed: int) -> None:
        start = blocks.first_resident[self.name]
        stop = min(self.first_seen_block(num_computed), blocks.num_blocks)
        for index in range(start, stop):
            self.pool.release(int(self.tables[blocks.row, index]))
            self.tables[blocks.row, index] = -1
        blocks.first_resident[self.name] = max(start, stop)

    def fork(self, parent: SequenceBlocks, child: SequenceBlocks) -> None:
        child.first_resident[self.name] = parent.first_resident[self.name]
        super().fork(parent, child)

    def _first_resident(self, blocks: SequenceBlocks) -> int:
        return blocks.first_resident[self.name]
