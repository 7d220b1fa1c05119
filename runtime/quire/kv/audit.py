"""A full check of the block bookkeeping, for tests and for hunting a bug; O(all blocks), so not for every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from quire.errors import InternalError
from quire.kv.block_manager import BlockManager
from quire.kv.sequence_blocks import SequenceBlocks


def audit(manager: BlockManager, live: Collection[SequenceBlocks]) -> None:
    """Raises InternalError unless references, free lists, tables and keys agree, between steps.

    Args:
        live: every sequence that was opened and not freed.
    """
    expected = {name: Counter[int]() for name in manager.pools}
    names = {id(pool): name for name, pool in manager.pools.items()}
    rows = [blocks.row for blocks in live]
    _require(len(set(rows)) == len(rows), "two sequences have one row")
    for group in manager.groups.values():
        for blocks in live:
            held = group.held(blocks)
            expected[names[id(group.pool)]].update(held)
            if group.holds_tokens:
                table = group.tables[blocks.row].tolist()
                first = blocks.num_blocks - len(held)
                _require(all(block_id >= 0 for block_id in held), "a needed block is not resident")
                _require(table[first : blocks.num_blocks] == held, "what is held is not what the table says")
                stale = (*table[:first], *table[blocks.num_blocks :])
                _require(all(block_id == -1 for block_id in stale), "a stale entry")
        idle = set(range(len(group.tables))) - set(rows)
        _require(bool((group.tables[sorted(idle)] == -1).all()), "a row that nobody has is not empty")
    for name, pool in manager.pools.items():
        counts = [expected[name][block_id] for block_id in range(pool.num_blocks)]
        used = pool.used_blocks()
        _require(used == +expected[name], f"pool {name} counts references {used}, should be {dict(+expected[name])}")
        free = pool.free_blocks()
        _require(len(free) == pool.num_free, f"pool {name}: num_free={pool.num_free}, {len(free)} in the list")
        _require(sorted(free) == [b for b in range(pool.num_blocks) if counts[b] == 0], f"free list of pool {name}")
        for block_id in range(pool.num_blocks):
            key = pool.key_of(block_id)
            _require(key is None or pool.find(key) == block_id, f"key of block {block_id} finds another")
        keyed = sum(pool.key_of(block_id) is not None for block_id in range(pool.num_blocks))
        _require(keyed == pool.num_cached, f"pool {name} finds {pool.num_cached} blocks, {keyed} have keys")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise InternalError(f"block bookkeeping is wrong: {what}")
