"""The block manager: slots for tokens in every KV group at once, shared prefixes, forks and copies on write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from quire.device.batch import I32
from quire.device.contract import KVPlan
from quire.errors import ConfigError, InternalError
from quire.graph.ir import CacheKind, KVGroupSpec
from quire.kv.block_pool import BlockPool
from quire.kv.kinds import CrossGroup, FullGroup, KVGroup, LatentGroup, SlidingGroup, StateGroup, TableLimits
from quire.kv.sequence_blocks import SequenceBlocks

KINDS: Mapping[CacheKind, type[KVGroup]] = {
    "full": FullGroup,
    "sliding": SlidingGroup,
    "latent": LatentGroup,
    "state": StateGroup,
    "cross": CrossGroup,
}
"""Kind of a cache -> its rules."""


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """The longest usable prefix in the cache: whole blocks, behind which every group could go on."""

    num_blocks: int
    num_tokens: int


NO_HIT = PrefixHit(0, 0)


class BlockManager:
    """Blocks of all KV groups of a model. What a block is and who may share it is the group's kind's matter.

    Args:
        groups: the model's KV groups. plan: blocks per pool.
        max_model_len: tokens of the longest sequence. max_num_seqs: rows of the tables.
        max_num_batched_tokens: most tokens that a sequence gets in one step.
    Attributes:
        checkpoint_tokens: steps must end on multiples of it for states to be cached, 0 = anywhere.
    Raises: ConfigError for a group whose pool has no blocks.
    """

    def __init__(
        self,
        groups: Mapping[str, KVGroupSpec],
        plan: KVPlan,
        *,
        block_size: int,
        max_model_len: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        enable_prefix_caching: bool,
    ) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.pools = {name: BlockPool(plan.num_blocks.get(name, 0)) for name in {g.pool for g in groups.values()}}
        max_blocks = -(-max_model_len // block_size)
        limits = TableLimits(block_size, max_num_seqs, max_blocks, max_num_batched_tokens, enable_prefix_caching)
        self.groups: dict[str, KVGroup] = {}
        for index, (name, spec) in enumerate(groups.items()):
            _check_pool(name, spec, self.pools[spec.pool])
            tag = index.to_bytes(2, "little")
            self.groups[name] = KINDS[spec.kind](name, spec, self.pools[spec.pool], tag, limits)
        self._groups = tuple(self.groups.values())
        self._of_tokens = tuple(group for group in self._groups if group.holds_tokens)
        self._groups_per_pool = [(pool, [g for g in self._groups if g.pool is pool]) for pool in self.pools.values()]
        self._moves_every_step = any(group.moves_every_step for group in self._groups)
        states = [group for group in self._groups if isinstance(group, StateGroup)]
        self.checkpoint_tokens = gcd(*(group.checkpoint_every for group in states)) * block_size
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))

    # ---- what fits ------------------------------------------------------------------------------------

    def most_blocks(self, num_tokens: int, num_encoder_tokens: int = 0) -> dict[str, int]:
        """Most blocks of each pool that one sequence of `num_tokens` holds at one time."""
        return {
            name: sum(group.most_blocks(num_tokens, num_encoder_tokens) for group in self._groups if group.pool is pool)
            for name, pool in self.pools.items()
        }

    def has_room(self, hit: PrefixHit, hashes: Sequence[bytes], num_tokens: int, num_encoder_tokens: int = 0) -> bool:
        """Whether a new sequence of `num_tokens` that starts with `hit` could be held whole by what is free now."""
        for pool, groups in self._groups_per_pool:
            needed = sum(group.room_needed(hit.num_blocks, hashes, num_tokens, num_encoder_tokens) for group in groups)
            if needed > pool.num_free:
                return False
        return True

    # ---- prefix cache ---------------------------------------------------------------------------------

    def find_prefix(self, hashes: Sequence[bytes]) -> PrefixHit:
        """The longest prefix of blocks behind which every group could go on.

        The caller passes the hashes of at most all blocks but the one with the last token, since at least one
        token must be computed.
        """
        if not self.enable_prefix_caching:
            return NO_HIT
        num_blocks = len(hashes)
        for group in self._groups:
            if group.hits_are_closed:
                num_blocks = group.longest_prefix(hashes, num_blocks)
        settled = False
        while not settled:
            longest = num_blocks
            for group in self._groups:
                if not group.hits_are_closed:
                    num_blocks = group.longest_prefix(hashes, num_blocks)
            settled = num_blocks == longest
        return PrefixHit(num_blocks, num_blocks * self.block_size)

    def offer_to_cache(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        """Makes the first `num_blocks` blocks findable; their tokens are in the cache and their hashes are known."""
        for group in self._groups:
            group.offer(blocks, hashes, num_blocks)
        blocks.num_offered = max(blocks.num_offered, num_blocks)

    def withdraw(self, blocks: SequenceBlocks) -> None:
        """Takes back what was offered of a sequence's blocks; whoever shares them keeps them."""
        for group in self._groups:
            for block_id in group.held(blocks):
                group.pool.forget(block_id)

    # ---- a sequence's blocks --------------------------------------------------------------------------

    def open(
        self, hit: PrefixHit = NO_HIT, hashes: Sequence[bytes] = (), num_encoder_tokens: int = 0
    ) -> SequenceBlocks:
        """A row of the tables, filled with the blocks of a prefix hit that was found since the last allocation."""
        if not self._free_rows:
            raise InternalError("no row is left in the block tables", because="more sequences run than max_num_seqs")
        blocks = SequenceBlocks(
            self._free_rows.pop(),
            hit.num_blocks,
            hit.num_tokens,
            num_offered=hit.num_blocks,
            num_encoder_tokens=num_encoder_tokens,
        )
        for group in self._groups:
            group.open(blocks, hashes)
        return blocks

    def allocate(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> bool:
        """Slots for tokens num_computed .. num_computed+num_new-1 in every group; False = out of blocks.

        Also gives back blocks that no query at `num_computed` or later can see, and makes the block that will
        be written the sequence's own. When it returns False, nothing was taken.
        """
        end = num_computed + num_new
        if end <= blocks.num_slots and not blocks.may_share_tail:
            return True
        for group in self._groups:
            group.release_unseen(blocks, num_computed)
        for pool, groups in self._groups_per_pool:
            if sum(group.blocks_to_take(blocks, num_computed, num_new) for group in groups) > pool.num_free:
                return False
        for group in self._groups:
            group.take(blocks, num_computed, num_new)
        blocks.may_share_tail = False
        blocks.num_blocks = max(blocks.num_blocks, -(-end // self.block_size))
        blocks.num_slots = 0 if self._moves_every_step else blocks.num_blocks * self.block_size
        return True

    def fork(self, parent: SequenceBlocks) -> SequenceBlocks:
        """A second sequence with the same tokens so far, sharing what the parent holds."""
        child = self.open(num_encoder_tokens=parent.num_encoder_tokens)
        child.num_blocks, child.num_slots, child.num_offered = parent.num_blocks, parent.num_slots, parent.num_offered
        child.may_share_tail = parent.may_share_tail = True
        for group in self._groups:
            group.fork(parent, child)
        return child

    def free(self, blocks: SequenceBlocks) -> None:
        """Gives back every block and the row. The handle is dead afterwards."""
        for group in self._groups:
            group.free(blocks)
        self._free_rows.append(blocks.row)
        blocks.row = -1

    def take_copies(self) -> dict[str, I32]:
        """Block copies [n, 2] (source, destination) per group that the step must do first; forgets them."""
        copies = ((group.name, group.take_copies()) for group in self._groups)
        return {name: np.array(pairs, np.int32) for name, pairs in copies if pairs}

    # ---- figures --------------------------------------------------------------------------------------

    @property
    def num_blocks(self) -> int:
        return sum(pool.num_blocks for pool in self.pools.values())

    @property
    def num_used_blocks(self) -> int:
        return sum(pool.num_used for pool in self.pools.values())

    @property
    def num_cached_blocks(self) -> int:
        return sum(pool.num_cached for pool in self.pools.values())

    def waste(self, live: Iterable[tuple[SequenceBlocks, int]]) -> float:
        """Share of the slots of used blocks of tokens that hold none.

        Args:
            live: every open sequence with the number of its tokens that are in the cache.
        """
        num_empty: dict[tuple[str, int], int] = {}
        for blocks, num_tokens in live:
            for index in range(num_tokens // self.block_size, blocks.num_blocks):
                empty = self.block_size - max(0, num_tokens - index * self.block_size)
                for group in self._of_tokens:
                    key = (group.name, int(group.tables[blocks.row, index]))
                    num_empty[key] = min(empty, num_empty.get(key, empty))
        pools = {id(group.pool): group.pool for group in self._of_tokens}
        num_slots = sum(pool.num_used for pool in pools.values()) * self.block_size
        return sum(num_empty.values()) / num_slots if num_slots else 0.0


def _check_pool(name: str, spec: KVGroupSpec, pool: BlockPool) -> None:
    if pool.num_blocks < 1:
        raise ConfigError(
            f"pool {spec.pool!r} of KV group {name!r} has no blocks",
            because="the KV plan gives it none",
            hint="more memory for the KV cache",
        )
