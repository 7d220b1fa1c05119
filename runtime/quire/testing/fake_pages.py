"""KV pages of the fake device: each slot remembers whose token it holds, so that a wrong page cannot go unseen.

A slot keeps the token, its position, the KV group that wrote it and a *chain*: a 64-bit hash of the whole sequence
up to that token. A reader checks that what the block table leads it to is one unbroken chain at the right
positions: a stale page, a page of another sequence, a missed copy or a slot written twice all break it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quire.sampling.batch import I32, U64

POISON = -1
"""Position of a slot that holds nothing: never written, or poisoned since."""

ROOT = 0x9E3779B97F4A7C15
"""Chain before a sequence's first token."""

_FACTOR, _TOKEN_FACTOR, _MASK = 0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 2**64 - 1


class FakeDeviceFault(AssertionError):
    """The core asked the device for something wrong: a test that sees this has found a bug above the contract."""


def extend_chain(chain: int, token_id: int) -> int:
    """Chain after one more token."""
    return (chain * _FACTOR + (token_id + 1) * _TOKEN_FACTOR) & _MASK


def _extend_chains(chains: U64, token_ids: I32) -> U64:
    tokens = (token_ids.astype(np.int64) + 1).astype(np.uint64)
    extended: U64 = chains * np.uint64(_FACTOR) + tokens * np.uint64(_TOKEN_FACTOR)
    return extended


class FakePages:
    """The pages of one pool."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        shape = (num_blocks, block_size)
        self.token_ids: I32 = np.zeros(shape, np.int32)
        self.positions: I32 = np.full(shape, POISON, np.int32)
        self.chains: U64 = np.zeros(shape, np.uint64)
        self.owners: NDArray[np.int16] = np.full(shape, -1, np.int16)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of the pages [num_blocks, block_size], by name."""
        return {"token_ids": self.token_ids, "positions": self.positions, "chains": self.chains, "owners": self.owners}

    def poison(self, block_ids: I32) -> None:
        """Empties blocks; reading them before they are written again is a fault."""
        self.positions[block_ids] = POISON

    def copy(self, copies: I32) -> None:
        """Copies blocks [n, 2] (source, destination). A block is not both, so the order does not matter."""
        self.check_ids(copies)
        sources, destinations = copies[:, 0], copies[:, 1]
        if len(np.unique(destinations)) < len(destinations) or np.isin(sources, destinations).any():
            raise FakeDeviceFault(f"block copies {copies.tolist()} depend on their order")
        for array in self.arrays().values():
            array[destinations] = array[sources]

    def check_ids(self, block_ids: I32) -> None:
        """Faults on ids outside the pool."""
        if block_ids.size and (int(block_ids.min()) < 0 or int(block_ids.max()) >= self.num_blocks):
            raise FakeDeviceFault(f"block ids {block_ids.tolist()} are not all in 0..{self.num_blocks - 1}")

    def write(self, owner: int, slots: I32, token_ids: I32, positions: I32, chains: U64) -> None:
        """Stores tokens; `slots` [n] are distinct."""
        self.token_ids.reshape(-1)[slots] = token_ids
        self.positions.reshape(-1)[slots] = positions
        self.chains.reshape(-1)[slots] = chains
        self.owners.reshape(-1)[slots] = owner

    def read_chain(self, owner: int, slots: I32, start: int) -> int:
        """Checks the tokens at positions start, start+1, ... in `slots` [n >= 1]; the chain after the last of them."""
        positions = self.positions.reshape(-1)[slots]
        if (self.owners.reshape(-1)[slots] != owner).any() or (positions != np.arange(start, start + len(slots))).any():
            raise FakeDeviceFault(f"slots {slots.tolist()} hold positions {positions.tolist()}, not {start} ...")
        chains, token_ids = self.chains.reshape(-1)[slots], self.token_ids.reshape(-1)[slots]
        before = np.concatenate([np.array([ROOT], np.uint64), chains[:-1]])
        broken = _extend_chains(before, token_ids) != chains
        if broken[1:].any() or (start == 0 and broken[0]):
            raise FakeDeviceFault(f"slots {slots.tolist()} hold tokens of different sequences")
        return int(chains[-1])
