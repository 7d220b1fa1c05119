"""A pool of equal blocks: reference counts, a free list in order of use, and what the free ones still remember."""

from __future__ import annotations

from quire.errors import InternalError


class BlockPool:
    """Hands out block ids 0 .. num_blocks-1.

    A block is free when nobody references it. A free block that was registered under a key keeps its content
    and can be found again until it is handed out for something else. Blocks without a key are handed out
    first, then the registered ones, least recently used first. Every operation is O(1): the free list is doubly
    linked through two lists of ids, with a sentinel at index `num_blocks`.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self.ref_counts = [0] * num_blocks
        self._next = [*range(1, num_blocks + 1), 0]
        self._previous = [num_blocks, *range(num_blocks)]
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_cached(self) -> int:
        """Blocks that `find` can find."""
        return len(self._block_of)

    def allocate(self) -> int:
        """A free block with one reference; what it held is forgotten. The caller has looked at `num_free`."""
        block_id = self._next[self.num_blocks]
        if block_id == self.num_blocks:
            raise InternalError("a block was taken from an empty pool", because="the caller did not count first")
        self._unlink(block_id)
        self.ref_counts[block_id] = 1
        self.forget(block_id)
        return block_id

    def acquire(self, block_id: int) -> None:
        """One more reference, to a used block or to a free one found by its key."""
        if self.ref_counts[block_id] == 0:
            self._unlink(block_id)
        self.ref_counts[block_id] += 1

    def release(self, block_id: int) -> None:
        """One reference less; the last one frees the block and keeps its key."""
        count = self.ref_counts[block_id] - 1
        if count < 0:
            raise InternalError(f"block {block_id} was released more often than acquired")
        self.ref_counts[block_id] = count
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
        return self._key_of[block_id]

    def free_blocks(self) -> list[int]:
        """Free block ids in the order in which they would be handed out."""
        blocks, block_id = [], self._next[self.num_blocks]
        while block_id != self.num_blocks:
            blocks.append(block_id)
            block_id = self._next[block_id]
        return blocks

    def _unlink(self, block_id: int) -> None:
        before, after = self._previous[block_id], self._next[block_id]
        self._next[before], self._previous[after] = after, before
        self.num_free -= 1

    def _link(self, block_id: int, *, first: bool) -> None:
        sentinel = self.num_blocks
        before = sentinel if first else self._previous[sentinel]
        after = self._next[before]
        self._next[before] = self._previous[after] = block_id
        self._previous[block_id], self._next[block_id] = before, after
        self.num_free += 1
