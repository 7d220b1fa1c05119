"""Content hashes of full blocks, chained so that equal hashes mean equal prefixes.

128 bits of BLAKE2b: two prefixes that differ would have to collide with probability about 2**-128 per pair, so
a hit is taken as proof and tokens are not compared again.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from quire.sampling.batch import I32

HASH_BYTES = 16


def root_hash(*extra_keys: str | None) -> bytes:
    """The parent of a sequence's first block. Whatever else decides K and V (cache salt, adapter) goes in here."""
    root = blake2b(b"quire.kv", digest_size=HASH_BYTES)
    for key in extra_keys:
        encoded = b"" if key is None else key.encode()
        root.update(f"{-1 if key is None else len(encoded)}:".encode() + encoded)
    return root.digest()


def extend_block_hashes(
    hashes: list[bytes], root: bytes, num_blocks: int, block_size: int, tokens_between: Callable[[int, int], I32]
) -> None:
    """Appends the hashes of blocks len(hashes) .. num_blocks-1.

    Args:
        tokens_between: (start, stop) -> int32 token ids of the sequence, all of them known.
    """
    for index in range(len(hashes), num_blocks):
        parent = hashes[-1] if hashes else root
        tokens = tokens_between(index * block_size, (index + 1) * block_size)
        hashes.append(blake2b(parent + tokens.tobytes(), digest_size=HASH_BYTES).digest())
