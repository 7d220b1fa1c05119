"""An encoder's output is written once, read through its length, and shared by forks."""

from __future__ import annotations

import numpy as np
import pytest

from quire.device.batch import StepBatch
from quire.device.contract import KVPlan
from quire.graph.ir import KVGroupSpec
from quire.kv import BlockManager, SequenceBlocks
from quire.kv.audit import audit
from quire.testing import FakeDeviceFault, FakeExecutor, fake_executor, fake_model

GROUPS = {"full": KVGroupSpec("full", 0, (), 1, "full"), "cross": KVGroupSpec("cross", 0, (), 1, "cross")}


def make(num_blocks: int = 16) -> tuple[BlockManager, FakeExecutor]:
    executor, plan = fake_executor(fake_model(groups=GROUPS), num_blocks)
    manager = BlockManager(
        GROUPS,
        KVPlan(num_blocks=plan.num_blocks),
        block_size=4,
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        enable_prefix_caching=True,
    )
    return manager, executor


def run(manager: BlockManager, executor: FakeExecutor, sequences: list[SequenceBlocks], start: int, num: int) -> None:
    """A step in which each sequence has tokens start .. start+num-1, of the ids 1, 2, ..."""
    rows = np.array([blocks.row for blocks in sequences], np.int32)
    batch = StepBatch(
        step=executor.num_submitted,
        token_ids=np.tile(np.arange(start + 1, start + num + 1, dtype=np.int32), len(sequences)),
        query_start_loc=np.arange(len(sequences) + 1, dtype=np.int32) * num,
        num_computed=np.full(len(sequences), start, np.int32),
        prev_row=np.full(len(sequences), -1, np.int32),
        groups={name: group.batch(rows, -(-(start + num) // 4)) for name, group in manager.groups.items()},
        logits_indices=np.empty(0, np.int32),
        copies=manager.take_copies(),
    )
    executor.submit(batch).result()


def test_it_is_written_once_and_read_by_every_step_and_fork() -> None:
    manager, executor = make()
    blocks = manager.open(num_encoder_tokens=10)
    assert manager.allocate(blocks, 0, 6)
    table = manager.groups["cross"].tables[blocks.row]
    assert (table[:3] >= 0).all()
    assert (table[3:] == -1).all()
    executor.encode("cross", table, np.arange(10, dtype=np.int32))
    run(manager, executor, [blocks], 0, 6)
    fork = manager.fork(blocks)
    assert manager.pools["cross"].num_used == 3
    for start in range(6, 9):
        assert all(manager.allocate(sequence, start, 1) for sequence in (blocks, fork))
        run(manager, executor, [blocks, fork], start, 1)
        audit(manager, [blocks, fork])
    assert manager.pools["cross"].num_used == 3
    manager.free(blocks)
    assert manager.allocate(fork, 9, 1)
    run(manager, executor, [fork], 9, 1)
    manager.free(fork)
    audit(manager, [])
    assert manager.num_used_blocks == 0


def test_a_step_before_the_encoder_is_a_fault() -> None:
    manager, executor = make()
    blocks = manager.open(num_encoder_tokens=10)
    assert manager.allocate(blocks, 0, 6)
    with pytest.raises(FakeDeviceFault, match="hold positions"):
        run(manager, executor, [blocks], 0, 6)


def test_it_is_counted_before_a_sequence_starts() -> None:
    manager, _ = make(4)
    assert manager.most_blocks(6, 10) == {"full": 2, "cross": 3}
    hit = manager.find_prefix([])
    assert manager.has_room(hit, [], 6, 16)
    assert not manager.has_room(hit, [], 6, 17)
    first, second = manager.open(num_encoder_tokens=12), manager.open(num_encoder_tokens=5)
    assert manager.allocate(first, 0, 4)
    assert not manager.allocate(second, 0, 4)
    audit(manager, [first, second])
    assert manager.num_used_blocks == 1 + 3


def test_a_hit_of_the_other_groups_stands_and_the_encoder_writes_again() -> None:
    manager, _ = make()
    first = manager.open(num_encoder_tokens=4)
    assert manager.allocate(first, 0, 8)
    manager.offer_to_cache(first, [b"a", b"b"], 2)
    manager.free(first)
    hit = manager.find_prefix([b"a", b"b"])
    assert hit.num_blocks == 2
    second = manager.open(hit, [b"a", b"b"], num_encoder_tokens=4)
    assert manager.allocate(second, 8, 1)
    assert manager.groups["cross"].held(second) != []
    audit(manager, [second])
