from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import InternalError
from quire.kv import BlockPool


def test_blocks_are_handed_out_once_each() -> None:
    pool = BlockPool(4)
    assert sorted(pool.allocate() for _ in range(4)) == [0, 1, 2, 3]
    assert pool.num_free == 0
    with pytest.raises(InternalError):
        pool.allocate()


def test_a_block_is_free_after_its_last_reference() -> None:
    pool = BlockPool(2)
    block_id = pool.allocate()
    pool.acquire(block_id)
    pool.release(block_id)
    assert pool.num_used == 1
    pool.release(block_id)
    assert pool.num_used == 0
    with pytest.raises(InternalError):
        pool.release(block_id)


def test_registered_blocks_are_evicted_last_and_least_recently_used_first() -> None:
    pool = BlockPool(4)
    blocks = [pool.allocate() for _ in range(4)]
    for index in (0, 2):
        pool.register(blocks[index], bytes([index]))
    for block_id in blocks:
        pool.release(block_id)
    assert pool.free_blocks()[2:] == [blocks[0], blocks[2]]
    found = pool.find(bytes([0]))
    assert found == blocks[0]
    pool.acquire(found)
    pool.release(found)
    order = [pool.allocate() for _ in range(4)]
    assert order[2:] == [blocks[2], blocks[0]]
    assert pool.find(bytes([0])) is None
    assert pool.num_cached == 0


def test_the_first_block_under_a_key_keeps_it() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.register(first, b"k")
    pool.register(second, b"k")
    assert pool.find(b"k") == first
    assert pool.key_of(second) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("acrk"), st.integers(0, 5)), max_size=60))
def test_against_a_model_of_counts_and_keys(ops: list[tuple[str, int]]) -> None:
    """a: allocate, c: acquire, r: release, k: register; the model is a dictionary of counts."""
    pool, counts, keys = BlockPool(6), dict.fromkeys(range(6), 0), {}
    for op, number in ops:
        if op == "a" and pool.num_free:
            block_id = pool.allocate()
            assert counts[block_id] == 0
            counts[block_id] = 1
            keys = {key: block for key, block in keys.items() if block != block_id}
        elif op == "c" and (counts[number] or number in keys.values()):
            pool.acquire(number)
            counts[number] += 1
        elif op == "r" and counts[number]:
            pool.release(number)
            counts[number] -= 1
        elif op == "k" and counts[number] and number not in keys.values() and b"key" not in keys:
            pool.register(number, b"key")
            keys[b"key"] = number
        assert [pool.ref_count(block) for block in counts] == list(counts.values())
        assert pool.used_blocks() == {block: count for block, count in counts.items() if count}
        assert sorted(pool.free_blocks()) == [block for block, count in counts.items() if count == 0]
        assert pool.num_free == len(pool.free_blocks())
        assert pool.find(b"key") == keys.get(b"key")


def test_a_large_pool_costs_what_is_used_of_it() -> None:
    tracemalloc.start()
    try:
        pool = BlockPool(2_000_000_000)
        assert [pool.allocate() for _ in range(3)] == [0, 1, 2]
        assert pool.num_free == 1_999_999_997
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_new_blocks_are_handed_out_between_those_without_and_those_with_a_key() -> None:
    pool = BlockPool(5)
    first, second, third = (pool.allocate() for _ in range(3))
    pool.register(first, b"kept")
    for block_id in (first, second, third):
        pool.release(block_id)
    expected = [third, second, 3, 4, first]
    assert pool.free_blocks() == expected
    assert [pool.allocate() for _ in range(5)] == expected
    assert pool.find(b"kept") is None
