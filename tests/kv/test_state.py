"""A state is one slot for a sequence: written in place, unless a fork or the prefix cache needs what is there."""

from __future__ import annotations

from quire.device.contract import KVPlan
from quire.graph.ir import KVGroupSpec
from quire.graph.kv_budget import blocks_needed
from quire.kv import BlockManager, SequenceBlocks
from quire.kv.audit import audit


def make(num_slots: int = 8, *, checkpoint_every: int = 0) -> BlockManager:
    return BlockManager(
        {"state": KVGroupSpec("state", 0, (), 1, "state", checkpoint_every)},
        KVPlan(num_blocks={"state": num_slots}),
        block_size=4,
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        enable_prefix_caching=True,
    )


def slots(manager: BlockManager, blocks: SequenceBlocks) -> tuple[int, int]:
    """The slot that the step reads, and the one that it writes."""
    group = manager.groups["state"]
    return int(group.tables[blocks.row, 0]), int(group.write_slots[blocks.row, 0])  # type: ignore[attr-defined]


def test_a_first_step_reads_zeros_and_later_ones_write_in_place() -> None:
    manager = make()
    blocks = manager.open()
    assert manager.allocate(blocks, 0, 7)
    read, own = slots(manager, blocks)
    assert read == -1
    for start in range(7, 12):
        assert manager.allocate(blocks, start, 1)
        assert slots(manager, blocks) == (own, own)
    assert manager.num_used_blocks == 1
    audit(manager, [blocks])


def test_of_two_forks_in_one_step_none_writes_what_the_other_reads() -> None:
    manager = make()
    parent = manager.open()
    assert manager.allocate(parent, 0, 7)
    shared = slots(manager, parent)[1]
    child = manager.fork(parent)
    assert manager.allocate(parent, 7, 1)
    assert manager.allocate(child, 7, 1)
    assert {slots(manager, parent)[0], slots(manager, child)[0]} == {shared}
    assert len({shared, slots(manager, parent)[1], slots(manager, child)[1]}) == 3
    audit(manager, [parent, child])
    for start in (8, 9):  # the shared slot is given back with the step after
        assert manager.allocate(parent, start, 1)
        assert manager.allocate(child, start, 1)
    assert manager.num_used_blocks == 2
    audit(manager, [parent, child])


def test_a_hit_needs_the_state_at_exactly_a_checkpoint() -> None:
    manager = make(checkpoint_every=2)
    hashes = [bytes([index]) for index in range(5)]
    blocks = manager.open()
    assert manager.checkpoint_tokens == 8
    for start, stop in ((0, 4), (4, 8), (8, 12), (12, 15)):
        assert manager.allocate(blocks, start, stop - start)
        manager.offer_to_cache(blocks, hashes, stop // 4)
        audit(manager, [blocks])
    manager.free(blocks)
    assert [manager.find_prefix(hashes[:count]).num_blocks for count in range(6)] == [0, 0, 2, 2, 2, 2]
    again = manager.open(manager.find_prefix(hashes[:3]), hashes)
    assert manager.allocate(again, 8, 3)
    read, written = slots(manager, again)
    assert -1 < read != written  # the checkpoint stays
    manager.free(again)
    assert manager.find_prefix(hashes).num_blocks == 2
    audit(manager, [])


def test_a_checkpoint_is_kept_until_its_step_is_read() -> None:
    """Two steps are planned before the first one's result is there."""
    manager = make(checkpoint_every=1)
    blocks = manager.open()
    assert manager.allocate(blocks, 0, 4)
    checkpoint = slots(manager, blocks)[1]
    assert manager.allocate(blocks, 4, 1)
    assert manager.allocate(blocks, 5, 1)
    audit(manager, [blocks])
    manager.offer_to_cache(blocks, [b"a"], 1)
    audit(manager, [blocks])
    assert manager.pools["state"].ref_count(checkpoint) == 0
    assert manager.find_prefix([b"a"]).num_blocks == 1


def test_out_of_slots_takes_nothing() -> None:
    manager = make(2)
    first, second, third = manager.open(), manager.open(), manager.open()
    assert manager.allocate(first, 0, 4)
    assert manager.allocate(second, 0, 4)
    assert not manager.allocate(third, 0, 4)
    audit(manager, [first, second, third])


def test_the_plan_counts_what_a_sequence_may_hold() -> None:
    for every, most in ((0, 2), (2, 3)):
        spec = KVGroupSpec("state", 0, (), 1, "state", every)
        assert make(checkpoint_every=every).most_blocks(1000) == {"state": most}
        assert blocks_needed(spec, 5, 1000, 4, 16) == 5 * most
