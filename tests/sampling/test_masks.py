from __future__ import annotations

import numpy as np
import pytest

from quire.sampling.masks import apply_bit_mask, ban, keep_allowed, mask_bits


def pack(allowed: set[int], vocab_size: int) -> np.ndarray:
    """The grammar mask by its definition: bit v % 32 of word v // 32."""
    mask = np.zeros((vocab_size + 31) // 32, np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << (token % 32))
    return mask


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 100])
def test_bits_are_read_as_defined(vocab_size: int) -> None:
    allowed = {0, vocab_size - 1, vocab_size // 2}
    mask = pack(allowed, vocab_size)
    assert set(np.flatnonzero(mask_bits(mask, vocab_size)).tolist()) == allowed
    row = np.zeros(vocab_size, np.float32)
    apply_bit_mask(row, mask)
    assert set(np.flatnonzero(row == 0).tolist()) == allowed


def test_allowed_and_banned() -> None:
    row = np.arange(6, dtype=np.float32)
    keep_allowed(row, np.empty(0, np.int32))
    assert row.tolist() == [0, 1, 2, 3, 4, 5]
    keep_allowed(row, np.array([4, 2], np.int32))
    assert np.flatnonzero(np.isfinite(row)).tolist() == [2, 4]
    assert row[4] == 4
    ban(row, np.array([4], np.int32))
    assert np.flatnonzero(np.isfinite(row)).tolist() == [2]
