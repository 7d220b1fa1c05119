from __future__ import annotations

import numpy as np
import pytest

from quire.device.contract import KVPlan
from quire.errors import ConfigError, InternalError
from quire.graph.ir import KVGroupSpec
from quire.kv import BlockManager, SequenceBlocks
from quire.kv.audit import audit

BLOCK_SIZE = 4


def make(num_blocks: int = 12, *, windows: dict[str, int] | None = None, shared_pool: bool = False) -> BlockManager:
    groups = {
        name: KVGroupSpec("sliding" if window else "full", window, (), 1, "kv" if shared_pool else name)
        for name, window in (windows or {"full": 0}).items()
    }
    plan = KVPlan(num_blocks={group.pool: num_blocks for group in groups.values()})
    return BlockManager(
        groups,
        plan,
        block_size=BLOCK_SIZE,
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        enable_prefix_caching=True,
    )


def table(manager: BlockManager, blocks: SequenceBlocks, group: str = "full") -> list[int]:
    return manager.groups[group].tables[blocks.row, : blocks.num_blocks].tolist()


def hashes(num_blocks: int, first: int = 0) -> list[bytes]:
    return [bytes([first]) * 15 + bytes([index]) for index in range(num_blocks)]


def test_slots_come_in_blocks() -> None:
    manager = make()
    blocks = manager.open()
    assert manager.allocate(blocks, 0, 5)
    assert (blocks.num_blocks, blocks.num_slots) == (2, 8)
    assert manager.allocate(blocks, 5, 3)
    assert manager.num_used_blocks == 2
    assert manager.allocate(blocks, 8, 1)
    assert manager.num_used_blocks == 3
    audit(manager, [blocks])
    manager.free(blocks)
    assert manager.num_used_blocks == 0
    audit(manager, [])


def test_out_of_blocks_takes_nothing() -> None:
    manager = make(3)
    first, second = manager.open(), manager.open()
    assert manager.allocate(first, 0, 8)
    assert not manager.allocate(second, 0, 8)
    audit(manager, [first, second])
    assert manager.num_used_blocks == 2


def test_a_shared_pool_is_counted_over_its_groups() -> None:
    manager = make(4, windows={"full": 0, "other": 0}, shared_pool=True)
    blocks = manager.open()
    assert not manager.allocate(blocks, 0, 9)
    assert manager.allocate(blocks, 0, 8)
    assert set(table(manager, blocks)).isdisjoint(table(manager, blocks, "other"))
    audit(manager, [blocks])


def test_a_sliding_group_gives_back_what_left_the_window() -> None:
    manager = make(windows={"full": 0, "sliding": 6})
    blocks = manager.open()
    for start in range(0, 16, 4):
        assert manager.allocate(blocks, start, 4)
    # the query at 12 sees keys 7..12: blocks 1, 2 and its own
    assert [entry >= 0 for entry in table(manager, blocks, "sliding")] == [False, True, True, True]
    assert min(table(manager, blocks)) >= 0
    audit(manager, [blocks])
    manager.free(blocks)
    audit(manager, [])


@pytest.mark.parametrize("window", [1, 2, 4, 5, 6, 8, 9, 13])
@pytest.mark.parametrize("chunk", [1, 3, 4, 16])
def test_what_is_resident_covers_the_window_and_stays_within_the_bound(window: int, chunk: int) -> None:
    manager = make(32, windows={"sliding": window})
    blocks, most = manager.open(), 0
    for start in range(0, 48, chunk):
        assert manager.allocate(blocks, start, min(chunk, 48 - start))
        entries = table(manager, blocks, "sliding")
        needed = range(max(0, start - window + 1) // BLOCK_SIZE, blocks.num_blocks)
        assert all(entries[index] >= 0 for index in needed)
        most = max(most, sum(entry >= 0 for entry in entries))
    assert most <= manager.most_blocks(48)["sliding"]


def test_a_prefix_is_found_after_its_sequence_is_gone() -> None:
    manager = make()
    blocks = manager.open()
    manager.allocate(blocks, 0, 12)
    before = table(manager, blocks)
    manager.offer_to_cache(blocks, hashes(3), 3)
    manager.free(blocks)
    hit = manager.find_prefix([*hashes(2), *hashes(1, first=9)])
    assert (hit.num_blocks, hit.num_tokens) == (2, 8)
    again = manager.open(hit, hashes(2))
    assert table(manager, again) == before[:2]
    audit(manager, [again])


def test_a_shared_prefix_has_one_copy() -> None:
    manager = make()
    first = manager.open()
    manager.allocate(first, 0, 8)
    manager.offer_to_cache(first, hashes(2), 2)
    second = manager.open(manager.find_prefix(hashes(2)), hashes(2))
    assert table(manager, second) == table(manager, first)
    assert manager.num_used_blocks == 2
    audit(manager, [first, second])
    manager.free(first)
    assert manager.num_used_blocks == 2


def test_taking_a_cached_block_for_something_else_forgets_it() -> None:
    manager = make(3)
    blocks = manager.open()
    manager.allocate(blocks, 0, 12)
    manager.offer_to_cache(blocks, hashes(3), 3)
    manager.free(blocks)
    other = manager.open()
    manager.allocate(other, 0, 4)
    assert manager.find_prefix(hashes(3)).num_blocks == 2  # the deepest went first
    audit(manager, [other])


def test_a_sliding_hit_needs_only_the_last_window() -> None:
    manager = make(windows={"full": 0, "sliding": 5})
    blocks = manager.open()
    for start in range(0, 16, 4):
        manager.allocate(blocks, start, 4)
        manager.offer_to_cache(blocks, hashes(start // 4 + 1), start // 4 + 1)
    manager.free(blocks)
    sliding = manager.groups["sliding"]
    first_key = sliding.tag + hashes(1)[0]
    assert sliding.pool.find(first_key) is not None
    while sliding.pool.find(first_key) is not None:  # others need blocks, until the oldest one is forgotten
        sliding.pool.allocate()
    hit = manager.find_prefix(hashes(4))
    assert hit.num_blocks == 4
    again = manager.open(hit, hashes(4))
    assert [entry >= 0 for entry in table(manager, again, "sliding")] == [False, False, False, True]
    assert min(table(manager, again)) >= 0


def test_a_sliding_hit_is_shortened_to_where_the_window_is_whole() -> None:
    manager = make(windows={"full": 0, "sliding": 6})
    blocks = manager.open()
    manager.allocate(blocks, 0, 16)
    manager.offer_to_cache(blocks, hashes(4), 4)
    manager.free(blocks)
    assert manager.find_prefix(hashes(4)).num_blocks == 4
    sliding = manager.groups["sliding"]
    while sliding.pool.find(sliding.tag + hashes(4)[2]) is not None:  # the deepest, block 3, goes before it
        sliding.pool.allocate()
    assert manager.find_prefix(hashes(4)).num_blocks == 2


def test_a_gap_in_a_sliding_window_hides_every_longer_prefix_that_sees_it() -> None:
    manager = make(16, windows={"sliding": 6})
    pool = manager.pools["sliding"]
    blocks = manager.open()
    manager.allocate(blocks, 0, 16)
    for index in (0, 1, 3):  # block 2 was never offered
        pool.register(table(manager, blocks, "sliding")[index], manager.groups["sliding"].tag + hashes(4)[index])
    assert manager.find_prefix(hashes(4)).num_blocks == 2


def test_a_fork_copies_the_shared_tail_on_its_first_write() -> None:
    manager = make()
    parent = manager.open()
    manager.allocate(parent, 0, 6)
    children = [manager.fork(parent), manager.fork(parent)]
    family = [parent, *children]
    audit(manager, family)
    assert manager.num_used_blocks == 2
    shared = table(manager, parent)
    for blocks in family:
        assert manager.allocate(blocks, 6, 1)
    copies = manager.take_copies()["full"]
    tails = [table(manager, blocks)[1] for blocks in family]
    assert len(set(tails)) == 3
    assert {table(manager, blocks)[0] for blocks in family} == {shared[0]}
    assert copies[:, 0].tolist() == [shared[1]] * 2
    assert sorted(copies[:, 1].tolist()) == sorted(set(tails) - {shared[1]})
    audit(manager, family)
    for blocks in family:
        assert manager.allocate(blocks, 7, 1)
    assert manager.take_copies() == {}


def test_a_fork_at_a_block_boundary_copies_nothing() -> None:
    manager = make()
    parent = manager.open()
    manager.allocate(parent, 0, 8)
    child = manager.fork(parent)
    assert manager.allocate(child, 8, 1)
    assert manager.allocate(parent, 8, 1)
    assert manager.take_copies() == {}
    assert table(manager, parent)[2] != table(manager, child)[2]


def test_no_block_is_source_and_destination_of_one_steps_copies() -> None:
    manager = make(3)
    parent = manager.open()
    manager.allocate(parent, 0, 6)
    child = manager.fork(parent)
    other = manager.open()
    assert manager.allocate(child, 6, 1)  # takes the last block and copies the tail
    manager.free(parent)  # the tail's last sequence goes in the same step
    assert not manager.allocate(other, 0, 4)  # the source is not handed out before the step is built
    assert manager.take_copies()["full"].shape == (1, 2)
    assert manager.allocate(other, 0, 4)
    audit(manager, [child, other])


def test_waste_counts_empty_slots_once() -> None:
    manager = make()
    parent = manager.open()
    manager.allocate(parent, 0, 6)
    assert manager.waste([(parent, 6)]) == pytest.approx(2 / 8)
    child = manager.fork(parent)
    assert manager.waste([(parent, 6), (child, 6)]) == pytest.approx(2 / 8)
    assert make().waste([]) == 0.0


def test_room_counts_shared_and_free_hits() -> None:
    manager = make(4)
    first = manager.open()
    manager.allocate(first, 0, 8)
    manager.offer_to_cache(first, hashes(2), 2)
    hit = manager.find_prefix(hashes(2))
    assert manager.has_room(hit, hashes(2), 16)  # two shared, two fresh
    assert not manager.has_room(hit, hashes(2), 17)
    manager.free(first)
    assert manager.has_room(hit, hashes(2), 16)
    assert not manager.has_room(hit, hashes(2), 17)


def test_empty_pools_are_refused() -> None:
    with pytest.raises(ConfigError, match="no blocks"):
        BlockManager(
            {"g": KVGroupSpec("full", 0, (), 1, "p")},
            KVPlan(num_blocks={"p": 0}),
            block_size=4,
            max_model_len=8,
            max_num_seqs=1,
            max_num_batched_tokens=8,
            enable_prefix_caching=True,
        )


@pytest.mark.parametrize("damage", ["leak", "double", "stale"])
def test_the_audit_can_fail(damage: str) -> None:
    manager = make()
    blocks = manager.open()
    manager.allocate(blocks, 0, 8)
    pool, tables = manager.pools["full"], manager.groups["full"].tables
    if damage == "leak":
        pool.allocate()
    elif damage == "double":
        tables[blocks.row, 1] = tables[blocks.row, 0]
    else:
        tables[blocks.row, 5] = 3
    with pytest.raises(InternalError):
        audit(manager, [blocks])


def test_tables_start_empty() -> None:
    assert (make().groups["full"].tables == np.int32(-1)).all()


def test_tables_grow_with_the_longest_sequence() -> None:
    """A million positions are room for 250,000 blocks a row, of which nothing is held before it is used."""
    group = KVGroupSpec("full", 1, (), 0, "p")
    manager = BlockManager(
        {"full": group},
        KVPlan(num_blocks={"p": 1000}),
        block_size=4,
        max_model_len=1_000_000,
        max_num_seqs=64,
        max_num_batched_tokens=64,
        enable_prefix_caching=True,
    )
    short, long = manager.open(), manager.open()
    assert manager.allocate(short, 0, 10)
    assert manager.groups["full"].tables.nbytes < 100_000
    assert manager.allocate(long, 0, 3_900)
    assert table(manager, long) == list(range(3, 978))
    assert table(manager, short) == [0, 1, 2]
    audit(manager, [short, long])
    fork = manager.fork(long)
    assert table(manager, fork) == table(manager, long)
    assert manager.groups["full"].tables.shape[1] < 2000
