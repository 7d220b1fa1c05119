"""The block manager: slots for tokens in every KV group at once, shared prefixes, forks and copies on write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quire.device.batch import I32
from quire.device.contract import KVPlan
from quire.errors import ConfigError, InternalError
from quire.graph.ir import KVGroupSpec
from quire.kv.block_pool import BlockPool
from quire.kv.block_table import KVGroup, SequenceBlocks

TOKEN_KINDS = ("full", "sliding", "latent")
"""Cache kinds whose blocks hold consecutive tokens."""


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """The longest usable prefix in the cache: whole blocks, resident where every group needs them."""

    num_blocks: int
    num_tokens: int


NO_HIT = PrefixHit(0, 0)


class BlockManager:
    """Blocks of all KV groups of a model.

    Full groups keep every block of a sequence; sliding groups give back what left the window (-1 in the table).
    Blocks are shared by prefix hits (full blocks, never written again) and by forks; a fork's partly filled last
    block is copied by the first one that writes to it while it is shared.

    Args:
        groups: the model's KV groups. plan: blocks per pool.
        max_model_len: tokens of the longest sequence. max_num_seqs: rows of the tables.
        max_num_batched_tokens: most tokens that a sequence gets in one step.
    Raises: ConfigError for a group whose kind is not one of tokens in order, or whose pool has no blocks.
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
        self._max_new_tokens = max_num_batched_tokens
        self.pools = {name: BlockPool(plan.num_blocks.get(name, 0)) for name in {g.pool for g in groups.values()}}
        shape = (max_num_seqs, -(-max_model_len // block_size))
        self.groups: dict[str, KVGroup] = {}
        for index, (name, spec) in enumerate(groups.items()):
            _check_group(name, spec, self.pools[spec.pool])
            self.groups[name] = KVGroup(name, spec, self.pools[spec.pool], index.to_bytes(2, "little"), shape)
        self._groups = tuple(self.groups.values())
        self._sliding = tuple(group for group in self._groups if group.window)
        self._full = tuple(group for group in self._groups if not group.window)
        self._groups_per_pool = [(pool, [g for g in self._groups if g.pool is pool]) for pool in self.pools.values()]
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))
        self._copies: list[tuple[KVGroup, int, int]] = []
        self._pinned: dict[tuple[str, int], int] = {}  # (group, copy source) -> references held until the step is built

    # ---- what fits ------------------------------------------------------------------------------------

    def most_blocks(self, num_tokens: int) -> dict[str, int]:
        """Most blocks of each pool that one sequence of `num_tokens` holds at one time."""
        return {
            name: sum(
                group.most_blocks(num_tokens, self._max_new_tokens, self.block_size)
                for group in self._groups
                if group.pool is pool
            )
            for name, pool in self.pools.items()
        }

    def has_room(self, hit: PrefixHit, hashes: Sequence[bytes], num_tokens: int) -> bool:
        """Whether a new sequence of `num_tokens` that starts with `hit` could be held whole by what is free now."""
        num_total = -(-num_tokens // self.block_size)
        for pool, groups in self._groups_per_pool:
            num_needed = 0
            for group in groups:
                first = group.first_needed_block(hit.num_tokens, self.block_size)
                found = [self._find(group, key) for key in hashes[first : hit.num_blocks]]
                num_in_use = sum(block_id is not None and pool.ref_count(block_id) > 0 for block_id in found)
                most = group.most_blocks(num_tokens, self._max_new_tokens, self.block_size)
                num_needed += max(0, min(num_total - first, most) - num_in_use)
            if num_needed > pool.num_free:
                return False
        return True

    # ---- prefix cache ---------------------------------------------------------------------------------

    def find_prefix(self, hashes: Sequence[bytes]) -> PrefixHit:
        """The longest prefix of blocks whose K and V every group still has where later tokens need them.

        Full groups need every block, sliding groups those that reach into the window before the prefix's end.
        The caller passes the hashes of at most all blocks but the one with the last token, since at least one
        token must be computed.
        """
        if not self.enable_prefix_caching:
            return NO_HIT
        num_blocks = len(hashes)
        for group in self._full:
            num_blocks = next((i for i in range(num_blocks) if self._find(group, hashes[i]) is None), num_blocks)
        settled = False
        while not settled:
            longest = num_blocks
            for group in self._sliding:
                num_blocks = self._longest_windowed_prefix(group, hashes, num_blocks)
            settled = num_blocks == longest
        return PrefixHit(num_blocks, num_blocks * self.block_size)

    def offer_to_cache(self, blocks: SequenceBlocks, hashes: Sequence[bytes], num_blocks: int) -> None:
        """Makes the first `num_blocks` blocks findable; their tokens are in the cache and their hashes are known."""
        for group in self._groups:
            table = group.tables[blocks.row]
            for index in range(max(blocks.num_offered, blocks.first_resident.get(group.name, 0)), num_blocks):
                group.pool.register(int(table[index]), group.tag + hashes[index])
        blocks.num_offered = max(blocks.num_offered, num_blocks)

    def withdraw(self, blocks: SequenceBlocks) -> None:
        """Takes back what was offered of a sequence's blocks; whoever shares them keeps them."""
        for group in self._groups:
            for block_id in self._resident(group, blocks):
                group.pool.forget(block_id)

    def _find(self, group: KVGroup, block_hash: bytes) -> int | None:
        return group.pool.find(group.tag + block_hash)

    def _longest_windowed_prefix(self, group: KVGroup, hashes: Sequence[bytes], num_blocks: int) -> int:
        while num_blocks > 0:
            first = group.first_needed_block(num_blocks * self.block_size, self.block_size)
            needed = range(num_blocks - 1, first - 1, -1)
            missing = next((i for i in needed if self._find(group, hashes[i]) is None), None)
            if missing is None:
                break
            num_blocks = missing  # every longer prefix has the missing block in its window too
        return num_blocks

    # ---- a sequence's blocks --------------------------------------------------------------------------

    def open(self, hit: PrefixHit = NO_HIT, hashes: Sequence[bytes] = ()) -> SequenceBlocks:
        """A row of the tables, filled with the blocks of a prefix hit that was found since the last allocation."""
        if not self._free_rows:
            raise InternalError("no row is left in the block tables", because="more sequences run than max_num_seqs")
        blocks = SequenceBlocks(self._free_rows.pop(), hit.num_blocks, hit.num_tokens, num_offered=hit.num_blocks)
        for group in self._groups:
            group.widen(hit.num_blocks)
            first = group.first_needed_block(hit.num_tokens, self.block_size)
            blocks.first_resident[group.name] = min(first, hit.num_blocks)
            for index in range(first, hit.num_blocks):
                block_id = self._find(group, hashes[index])
                assert block_id is not None, "a prefix hit was not used at once"
                group.pool.acquire(block_id)
                group.tables[blocks.row, index] = block_id
        return blocks

    def allocate(self, blocks: SequenceBlocks, num_computed: int, num_new: int) -> bool:
        """Slots for tokens num_computed .. num_computed+num_new-1 in every group; False = out of blocks.

        Also gives back blocks that no query at `num_computed` or later can see, and makes the block that will
        be written the sequence's own. When it returns False, nothing was taken.
        """
        end = num_computed + num_new
        if end <= blocks.num_slots and not blocks.may_share_tail:
            return True
        for group in self._sliding:
            self._release_left(group, blocks, num_computed)
        num_fresh = max(0, -(-end // self.block_size) - blocks.num_blocks)
        shared = [group for group in self._groups if self._shares_tail(group, blocks, num_computed)]
        for pool, groups in self._groups_per_pool:
            if num_fresh * len(groups) + sum(group.pool is pool for group in shared) > pool.num_free:
                return False
        for group in shared:
            self._copy_on_write(group, blocks, num_computed // self.block_size)
        blocks.may_share_tail = False
        for group in self._groups:
            group.widen(blocks.num_blocks + num_fresh)
        for index in range(blocks.num_blocks, blocks.num_blocks + num_fresh):
            for group in self._groups:
                group.tables[blocks.row, index] = group.pool.allocate()
        blocks.num_blocks += num_fresh
        blocks.num_slots = blocks.num_blocks * self.block_size
        return True

    def fork(self, parent: SequenceBlocks) -> SequenceBlocks:
        """A second sequence with the same tokens so far, sharing every block of the parent's."""
        child = self.open()
        child.num_blocks, child.num_slots, child.num_offered = parent.num_blocks, parent.num_slots, parent.num_offered
        child.first_resident = dict(parent.first_resident)
        child.may_share_tail = parent.may_share_tail = True
        for group in self._groups:
            group.tables[child.row] = group.tables[parent.row]
            for block_id in self._resident(group, parent):
                group.pool.acquire(block_id)
        return child

    def free(self, blocks: SequenceBlocks) -> None:
        """Gives back every block and the row. The handle is dead afterwards."""
        for group in self._groups:
            for block_id in reversed(self._resident(group, blocks)):  # the deepest is the first to be evicted
                group.pool.release(block_id)
            group.tables[blocks.row, : blocks.num_blocks] = -1
        self._free_rows.append(blocks.row)
        blocks.row = -1

    def _resident(self, group: KVGroup, blocks: SequenceBlocks) -> list[int]:
        first = blocks.first_resident[group.name]
        resident: list[int] = group.tables[blocks.row, first : blocks.num_blocks].tolist()
        return resident

    def _release_left(self, group: KVGroup, blocks: SequenceBlocks, num_computed: int) -> None:
        start = blocks.first_resident[group.name]
        stop = min(group.first_needed_block(num_computed, self.block_size), blocks.num_blocks)
        for index in range(start, stop):
            group.pool.release(int(group.tables[blocks.row, index]))
            group.tables[blocks.row, index] = -1
        blocks.first_resident[group.name] = max(start, stop)

    # ---- copy on write --------------------------------------------------------------------------------

    def _shares_tail(self, group: KVGroup, blocks: SequenceBlocks, num_computed: int) -> bool:
        """Whether the block that `num_computed` falls into is partly filled and referenced by another sequence."""
        if not blocks.may_share_tail or num_computed % self.block_size == 0:
            return False
        block_id = int(group.tables[blocks.row, num_computed // self.block_size])
        return group.pool.ref_count(block_id) - self._pinned.get((group.name, block_id), 0) > 1

    def _copy_on_write(self, group: KVGroup, blocks: SequenceBlocks, index: int) -> None:
        """The source keeps a reference until the step is built, so no block is source and destination in one step."""
        source = int(group.tables[blocks.row, index])
        destination = group.pool.allocate()
        group.tables[blocks.row, index] = destination
        self._copies.append((group, source, destination))
        key = (group.name, source)
        self._pinned[key] = self._pinned.get(key, 0) + 1  # the sequence's own reference becomes the pin

    def take_copies(self) -> dict[str, I32]:
        """Block copies [n, 2] (source, destination) per group that the step must do first; forgets them."""
        if not self._copies:
            return {}
        pairs: dict[str, list[tuple[int, int]]] = {}
        for group, source, destination in self._copies:
            pairs.setdefault(group.name, []).append((source, destination))
            group.pool.release(source)
        self._copies.clear()
        self._pinned.clear()
        return {name: np.array(rows, np.int32) for name, rows in pairs.items()}

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
        """Share of the slots of used blocks that hold no token.

        Args:
            live: every open sequence with the number of its tokens that are in the cache.
        """
        num_empty: dict[tuple[str, int], int] = {}
        for blocks, num_tokens in live:
            for index in range(num_tokens // self.block_size, blocks.num_blocks):
                empty = self.block_size - max(0, num_tokens - index * self.block_size)
                for group in self._groups:
                    key = (group.name, int(group.tables[blocks.row, index]))
                    num_empty[key] = min(empty, num_empty.get(key, empty))
        num_slots = self.num_used_blocks * self.block_size
        return sum(num_empty.values()) / num_slots if num_slots else 0.0


def _check_group(name: str, spec: KVGroupSpec, pool: BlockPool) -> None:
    if spec.kind not in TOKEN_KINDS:
        raise ConfigError(
            f"KV group {name!r} is of kind {spec.kind!r}",
            because=f"the block manager handles {', '.join(TOKEN_KINDS)}",
            hint="a model without such layers",
        )
    if pool.num_blocks < 1:
        raise ConfigError(
            f"pool {spec.pool!r} of KV group {name!r} has no blocks",
            because="the KV plan gives it none",
            hint="more memory for the KV cache",
        )
