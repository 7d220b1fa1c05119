"""What the fake device does with caches that hold no run of tokens: states of sequences, and an encoder's output."""

from __future__ import annotations

import numpy as np

from quire.device.batch import GroupBatch, StepBatch
from quire.sampling.batch import I32, U64
from quire.testing.fake_pages import ROOT, FakeDeviceFault, FakePages, extend_chain


def read_state(pages: FakePages, owner: int, slot: int, num_computed: int) -> int:
    """The chain after `num_computed` tokens; faults where the slot holds the state after others, or another's."""
    if slot < 0 or num_computed == 0:
        if slot >= 0 or num_computed:
            raise FakeDeviceFault(f"state slot {slot} is read before position {num_computed}")
        return ROOT
    pages.check_ids(np.array([slot], np.int32))
    held = int(pages.owners[slot, 0]), int(pages.positions[slot, 0])
    if held != (owner, num_computed - 1):
        raise FakeDeviceFault(f"state slot {slot} holds (group, position) {held}, not {(owner, num_computed - 1)}")
    return int(pages.chains[slot, 0])


def write_states(
    pages: FakePages, owner: int, batch: StepBatch, group: GroupBatch, token_ids: I32, chains: U64
) -> None:
    """Stores each sequence's state after its last token; nobody may read or write what another sequence writes."""
    if group.write_slots is None:
        raise FakeDeviceFault("a state group without write_slots")
    read, written = group.block_tables[:, 0], group.write_slots[:, 0]
    pages.check_ids(written)
    readers = read[:, None] == written[None, :]
    np.fill_diagonal(readers, val=False)
    if len(np.unique(written)) < len(written) or readers.any():
        raise FakeDeviceFault(f"state slots {written.tolist()} are written, {read.tolist()} are read")
    last = batch.query_start_loc[1:] - 1
    pages.write(owner, written, token_ids[last], batch.seq_lens - 1, chains[last])


def write_encoded(pages: FakePages, owner: int, block_ids: I32, token_ids: I32) -> None:
    """Stores an encoder's output, which stands for `token_ids`, in the blocks of one sequence."""
    positions = np.arange(len(token_ids), dtype=np.int32)
    chains, chain = np.zeros(len(token_ids), np.uint64), ROOT
    for index, token_id in enumerate(token_ids.tolist()):
        chain = extend_chain(chain, token_id)
        chains[index] = chain
    slots = block_ids[positions // pages.block_size] * pages.block_size + positions % pages.block_size
    pages.write(owner, slots, token_ids, positions, chains)


def read_encoded(pages: FakePages, owner: int, group: GroupBatch, s: int) -> None:
    """Faults unless sequence s finds one encoder's whole output in its blocks."""
    if group.lens is None:
        raise FakeDeviceFault("a cross group without lens")
    positions = np.arange(group.lens[s], dtype=np.int32)
    if not len(positions):
        return
    block_ids = group.block_tables[s, positions // pages.block_size]
    pages.check_ids(block_ids)
    pages.read_chain(owner, block_ids * pages.block_size + positions % pages.block_size, 0)
