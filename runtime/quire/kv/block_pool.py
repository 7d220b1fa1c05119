"""A pool of equal blocks: reference counts, a free list in order of use, and what the free ones still remember."""

from __future__ import annotations

from quire.errors import InternalError


class BlockPool:
    """Hands out block ids 0 .. num_blocks-1.

    A block is free when nobody references it. A free block that was registered under a key keeps its content
    and can be found again until it is handed out for something else. Blocks without a key are handed out
    first, then the registered ones, least recently used first. Every operation is O(1): the free list is doubly
    linked through two lists, with a sentinel at index 0 and block b at index b + 1. Blocks that were never handed out
    are in no list: a large pool costs what is used of it.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._ref_counts: list[int] = []
        self._next, self._previous = [0], [0]
        self._key_of: list[bytes | None] = []
        self._block_of: dict[bytes, int] = {}

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that `find` can find."""
        return len(self._block_of)

    def ref_count(self, block_id: int) -> int:
        """References to the block."""
        return self._ref_counts[block_id] if block_id < len(self._ref_counts) else 0

    def used_blocks(self) -> dict[int, int]:
        """Block id -> references, of every block that has some."""
        return {block_id: count for block_id, count in enumerate(self._ref_counts) if count}

    def allocate(self) -> int:
        """A free block with one reference; what it held is forgotten. The caller has looked at `num_free`."""
        block_id = self._next[0] - 1
        if block_id < 0 or self._key_of[block_id] is not None:
            block_id = self._add_fresh() if len(self._ref_counts) < self.num_blocks else block_id
        if block_id < 0:
            raise InternalError("a block was taken from an empty pool", because="the caller did not count first")
        self._unlink(block_id)
        self._ref_counts[block_id] = 1
        self.forget(block_id)
        return block_id

    def acquire(self, block_id: int) -> None:
        """One more reference, to a used block or to a free one found by its key."""
        if self._ref_counts[block_id] == 0:
            self._unlink(block_id)
        self._ref_counts[block_id] += 1

    def release(self, block_id: int) -> None:
        """One reference less; the last one frees the block and keeps its key."""
        count = self._ref_counts[block_id] - 1
        if count < 0:
            raise InternalError(f"block {block_id} was released more often than acquired")
        self._ref_counts[block_id] = count
        if count == 0:
            self._link(block_id, first=self._key_of[block_id] is None)

    def find(self, key: bytes) -> int | None:
        """The block registered under `key`, used or free."""
        return self._block_of.get(key)

    def register(self, block_id: int, key: bytes) -> None:
        """Makes a used, full block findable. The first block registered under a key keeps it."""
        if self._key_of[block_id] is None and key not in self._block_of:
            self._key_of[block_id] = key
            self._block_of[key] = block_id

    def forget(self, block_id: int) -> None:
        """A used block is not found any more."""
        key = self._key_of[block_id]
        if key is not None:
            self._key_of[block_id] = None
            del self._block_of[key]

    def key_of(self, block_id: int) -> bytes | None:
        """The key the block is registered under."""
        return self._key_of[block_id] if block_id < len(self._key_of) else None

    def free_blocks(self) -> list[int]:
        """Free block ids in the order in which they would be handed out."""
        listed, index = [], self._next[0]
        while index:
            listed.append(index - 1)
            index = self._next[index]
        kept = sum(self._key_of[block_id] is None for block_id in listed)
        return [*listed[:kept], *range(len(self._ref_counts), self.num_blocks), *listed[kept:]]

    def _add_fresh(self) -> int:
        """The next block that was never handed out, in front of the free list, where it was counted already."""
        block_id = len(self._ref_counts)
        self._ref_counts.append(0)
        self._key_of.append(None)
        self._next.append(0)
        self._previous.append(0)
        self.num_free -= 1
        self._link(block_id, first=True)
        return block_id

    def _unlink(self, block_id: int) -> None:
        before, after = self._previous[block_id + 1], self._next[block_id + 1]
        self._next[before], self._previous[after] = after, before
        self.num_free -= 1

    def _link(self, block_id: int, *, first: bool) -> None:
        before = 0 if first else self._previous[0]
        after = self._next[before]
        self._next[before] = self._previous[after] = block_id + 1
        self._previous[block_id + 1], self._next[block_id + 1] = before, after
        self.num_free += 1
