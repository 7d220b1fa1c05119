"""Block tables: one persistent int32 matrix per KV group with a row per sequence, and a sequence's place in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quire.device.batch import I32
from quire.graph.ir import KVGroupSpec
from quire.kv.block_pool import BlockPool

FIRST_TABLE_BLOCKS = 256
"""Columns of a new block table."""


class KVGroup:
    """One KV group at run time: its rule, its pool and its block tables.

    Attributes:
        window: tokens that a query sees, itself included; 0 = all.
        tables: int32 [max_num_seqs, N], -1 = not resident. Rows change in place as blocks come and go; N grows up to
            max_blocks with the longest sequence so far, by a new array.
        tag: prefix of this group's keys, so that groups of one pool do not find each other's blocks.
    """

    def __init__(self, name: str, spec: KVGroupSpec, pool: BlockPool, tag: bytes, shape: tuple[int, int]) -> None:
        self.name, self.pool, self.tag = name, pool, tag
        self.window = spec.window if spec.kind == "sliding" else 0
        self._max_blocks = shape[1]
        self.tables: I32 = np.full((shape[0], min(shape[1], FIRST_TABLE_BLOCKS)), -1, np.int32)

    def widen(self, num_blocks: int) -> None:
        """Room in every row for `num_blocks` blocks."""
        width = self.tables.shape[1]
        if num_blocks <= width:
            return
        wider = np.full((len(self.tables), min(self._max_blocks, max(2 * width, num_blocks))), -1, np.int32)
        wider[:, :width] = self.tables
        self.tables = wider

    def first_needed_block(self, num_computed: int, block_size: int) -> int:
        """Index of the first block that a query at `num_computed` or later can see."""
        return max(0, num_computed - self.window + 1) // block_size if self.window else 0

    def most_blocks(self, num_tokens: int, max_new_tokens: int, block_size: int) -> int:
        """Most blocks that a sequence of `num_tokens` holds at one time, computed in steps of `max_new_tokens`."""
        num_blocks = -(-num_tokens // block_size)
        if not self.window:
            return num_blocks
        span = self.window - 1 + max_new_tokens  # consecutive tokens that must be resident in one step
        return min(num_blocks, (span + block_size - 2) // block_size + 1)


@dataclass(slots=True, eq=False)
class SequenceBlocks:
    """A sequence's place in the block tables. Owned by the BlockManager; others read.

    Attributes:
        row: its row in every group's tables.
        num_blocks: table entries in use, the same in every group; num_slots = num_blocks * block_size.
        num_offered: leading blocks already offered to the prefix cache.
        first_resident: group name -> index of the first entry that has not left the window.
        may_share_tail: the last, partly filled block may be referenced by a fork.
    """

    row: int
    num_blocks: int = 0
    num_slots: int = 0
    num_offered: int = 0
    first_resident: dict[str, int] = field(default_factory=dict)
    may_share_tail: bool = False
