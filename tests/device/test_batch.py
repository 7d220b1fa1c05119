"""What executors derive from a step, and padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.device import GroupBatch, StepBatch, derive, pad, token_indices


def _i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def _batch() -> StepBatch:
    """Two tokens of a sequence with 3 computed, three of a new one; blocks of 4."""
    return StepBatch(
        step=0,
        token_ids=_i32(5, 6, 7, 8, 9),
        query_start_loc=_i32(0, 2, 5),
        num_computed=_i32(3, 0),
        prev_row=_i32(-1, -1),
        groups={"full": GroupBatch(np.array([[8, 2], [-1, 6]], np.int32))},
        logits_indices=_i32(1, 4),
    )


def test_derive() -> None:
    indices = derive(_batch(), "full", 4)
    np.testing.assert_array_equal(indices.seq_ids, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(indices.kv_index, [3, 4, 0, 1, 2])
    np.testing.assert_array_equal(indices.slots, [8 * 4 + 3, 2 * 4, -1, -1, -1])
    assert {a.dtype for a in (indices.seq_ids, indices.kv_index, indices.slots)} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(_batch().seq_lens, [5, 3])


def test_token_indices_need_no_kv_group() -> None:
    seq_ids, kv_index = token_indices(_batch())
    np.testing.assert_array_equal(seq_ids, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(kv_index, [3, 4, 0, 1, 2])


def test_pad_leads_every_padding_token_into_the_trash_block() -> None:
    padded = pad(_batch(), num_tokens=8, num_seqs=4, num_logits=3, max_blocks=3, trash=30)
    np.testing.assert_array_equal(padded.query_start_loc, [0, 2, 5, 8, 8])
    np.testing.assert_array_equal(padded.seq_lens, [5, 3, 3, 0])
    slots = derive(padded, "full", 4).slots
    np.testing.assert_array_equal(slots[:2], [35, 8])
    assert (slots[2:] // 4 == 30).all(), "blocks that are not resident are redirected too"
    np.testing.assert_array_equal(padded.logits_indices, [1, 4, 0])
    np.testing.assert_array_equal(padded.token_ids[5:], 0)


def test_pools_of_different_sizes_have_trash_blocks_of_their_own() -> None:
    tables = _batch().groups["full"]
    batch = replace(_batch(), groups={"full": tables, "sliding": tables})
    padded = pad(batch, num_tokens=6, num_seqs=3, num_logits=2, max_blocks=2, trash={"full": 30, "sliding": 12})
    for group, trash in (("full", 30), ("sliding", 12)):
        np.testing.assert_array_equal(padded.groups[group].block_tables, [[8, 2], [trash, 6], [trash, trash]])


@pytest.mark.parametrize("change", [{"num_tokens": 4}, {"num_seqs": 1}, {"num_logits": 1}, {"num_seqs": 2}])
def test_pad_refuses_what_does_not_fit(change: dict[str, int]) -> None:
    shape = {"num_tokens": 8, "num_seqs": 4, "num_logits": 3, "max_blocks": 3, "trash": 30}
    with pytest.raises(ValueError, match="does not fit"):
        pad(_batch(), **{**shape, **change})
