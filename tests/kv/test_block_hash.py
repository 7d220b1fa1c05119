from __future__ import annotations

import numpy as np

from quire.kv import extend_block_hashes, root_hash


def hashes(tokens: list[int], num_blocks: int, root: bytes = b"", start: list[bytes] | None = None) -> list[bytes]:
    array = np.array(tokens, np.int32)
    result = list(start or [])
    extend_block_hashes(result, root, num_blocks, 2, lambda start, stop: array[start:stop])
    return result


def test_a_hash_stands_for_the_whole_prefix() -> None:
    one, other = hashes([1, 2, 3, 4], 2), hashes([9, 2, 3, 4], 2)
    assert one[0] != other[0]
    assert one[1] != other[1]
    assert hashes([1, 2, 3, 4, 5, 6], 2) == one


def test_hashes_are_extended_not_made_again() -> None:
    assert hashes([1, 2, 3, 4, 5, 6], 3, start=hashes([1, 2, 3, 4], 2)) == hashes([1, 2, 3, 4, 5, 6], 3)


def test_extra_keys_separate_prefixes() -> None:
    roots = [root_hash(None), root_hash(""), root_hash("a"), root_hash("a", None), root_hash("a", "b"), root_hash("ab")]
    assert len(set(roots)) == len(roots)
    assert hashes([1, 2], 1, roots[0]) != hashes([1, 2], 1, roots[2])
