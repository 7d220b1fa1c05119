"""What a kind of cache decides: blocks needed, what a prefix hit means, what can be freed, how a fork shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from quire.device.batch import I32, GroupBatch
from quire.graph.ir import KVGroupSpec
from quire.kv.block_pool import BlockPool
from quire.kv.sequence_blocks import SequenceBlocks


@dataclass(frozen=True, slots=True)
class TableLimits:
    """Sizes that all groups of a block manager share.

    Attributes:
        block_size: tokens of a block.
        num_rows: sequences at a time. max_blocks: of one sequence.
        max_new_tokens: most tokens that a sequence gets in one step.
        keeps_prefixes: prefix caching is on.
    """

    block_size: int
    num_rows: int
    max_blocks: int
    max_new_tokens: int
    keeps_prefixes: bool


class KVGroup(ABC):
    """One KV group at run time: its pool, its tables, and the rules of its kind.

    Attributes:
        tag: prefix of this group's keys, so that groups of one pool do not find each other's blocks.
        tables: int32 [num_rows, N], a row for a sequence, -1 = not resident.
        holds_tokens: entry `i` of a row is the block of tokens i * block_size and up.
        hits_are_closed: where a prefix is cached, every shorter one is.
        moves_every_step: `allocate` must be asked before every step, not only where a sequence needs more blocks.
    """

    tables: I32
    holds_tokens = False
    hits_are_closed = True
    moves_every_step = False

    def __init__(self, name: str, spec: KVGroupSpec, pool: BlockPool, tag: bytes, limits: TableLimits) -> None:
        self.name, self.spec, self.pool = name, spec, pool
        self.tag = tag
        self._limits = limits

    def key(self, block_hash: bytes) -> bytes:
        """What the pool calls this group's block with that hash."""
        return self.tag + block_hash

    def find(self, block_hash: bytes) -> int | None:
        """The block with that hash, used or free."""
        return self.pool.find(self.tag + block_hash)

    @abstractmethod
    def most_blocks(self, num_tokens: int, num_encoder_tokens: int) -> int:
        """Most blocks that a sequence of so many tokens holds at one time."""

    @abstractmethod
    def room_needed(self, num_hit: int, hashes: Sequence[bytes], num_tokens: int, num_encoder_tokens: int) -> int:
        """Free blocks with which a new sequence could be held whole, when its first `num_hit` blocks are cached."""

    @abstractmethod
    def longest_prefix(self, hashes: Sequence[bytes], num_blocks: int) -> int:
        """Blocks, up to `num_blocks`, of the longest prefix behind which a sequence could go on."""

    @abstractmethod
    def open(self, blocks: SequenceBlocks, hashes: Sequence[bytes]) -> None:
        """Takes what a sequence needs of the prefix of `blocks.num_blocks` blocks that it starts with."""

    def release_unseen(self, blocks: SequenceBlocks, num_computed: int) -> None:
        """Gives back what no query at `num_computed` or later reads. Nothing, unless the kind forgets."""
        return

    @abstractmethod
    def blocks_to_take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> int:
        """Free blocks that `take` would use."""

    @abstractmethod
    def take(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> None:
        """Places for tokens num_computed .. num_computed+num_new-1, which nobody else reads or writes."""

    @abstractmethod
    def offer(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        """Makes what holds the first `num_blocks` blocks findable."""

    @abstractmethod
    def held(self, blocks: SequenceBlocks) -> list[int]:
        """Every block that the sequence has a reference to, once for each."""

    @abstractmethod
    def fork(self, parent: SequenceBlocks, child: SequenceBlocks) -> None:
        """A second sequence with the same tokens so far."""

    @abstractmethod
    def free(self, blocks: SequenceBlocks) -> None:
        """Gives back every block, and empties the row."""

    def take_copies(self) -> list[tuple[int, int]]:
        """Copies (source, destination) that the step must do first; forgets them."""
        return []

    @abstractmethod
    def batch(self, rows: I32, num_blocks: int) -> GroupBatch:
        """This group's side of a step of the sequences in `rows`, the longest of which has `num_blocks` blocks."""
