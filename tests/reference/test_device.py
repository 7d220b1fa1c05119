"""The reference device: poison in fresh caches, honest memory figures, no options."""

from __future__ import annotations

import numpy as np
import pytest

from quire.device import CONTRACT_VERSION
from quire.device.registry import resolve_device
from quire.errors import ConfigError
from quire.graph.ir import CacheArray, KVGroupSpec, Src, Weight
from quire.graph.ops import PLAIN_OPS
from quire.graph.shapes import shape_of
from quire.reference.device import ReferenceLibrary, quire_capabilities, quire_probe

GROUP = KVGroupSpec("full", 0, (CacheArray("k", shape_of("kv_heads", 4)), CacheArray("s", shape_of(2), "f32")), 1, "kv")


def _cache(library: ReferenceLibrary, dtype: str = "bfloat16") -> dict[str, np.ndarray]:
    """All five blocks of a cache, as if they were in use."""
    cache = library.create_cache(GROUP, {"kv_heads": 3}, 5, 4, dtype)
    library.read_blocks(cache, np.array([4], np.int32))
    return cache


def test_a_cache_holds_what_is_used_of_it() -> None:
    library = ReferenceLibrary()
    cache = library.create_cache(GROUP, {"kv_heads": 3}, 10**6, 4, "float32")
    assert sum(array.nbytes for array in cache.values()) == 0
    library.copy_blocks(cache, np.array([[2, 7]], np.int32))
    assert {array.shape[0] for array in cache.values()} == {8}
    cache["k"][7] = 5
    library.read_blocks(cache, np.array([8], np.int32))
    assert (cache["k"][7] == 5).all()
    assert np.isnan(cache["k"][8:]).all()
    with pytest.raises(IndexError):
        library.read_blocks(library.create_cache(GROUP, {"kv_heads": 3}, 2, 4, "float32"), np.array([2], np.int32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_fresh_cache_is_nan(dtype: str) -> None:
    cache = _cache(ReferenceLibrary(), dtype)
    assert {name: (a.shape, str(a.dtype)) for name, a in cache.items()} == {
        "k": ((5, 4, 3, 4), dtype),
        "s": ((5, 4, 2), "float32"),
    }
    assert all(np.isnan(array.astype(np.float32)).all() for array in cache.values())


def test_copies_read_before_they_write() -> None:
    library = ReferenceLibrary()
    cache = _cache(library)
    cache["k"][:] = np.arange(5).reshape(5, 1, 1, 1)
    library.copy_blocks(cache, np.array([[0, 1], [1, 2]], np.int32))
    np.testing.assert_array_equal(cache["k"][:, 0, 0, 0].astype(int), [0, 0, 1, 3, 4])


def test_read_blocks_is_a_copy_that_write_blocks_takes_back() -> None:
    library = ReferenceLibrary()
    cache = _cache(library)
    cache["k"][:], cache["s"][:] = 1, 2
    pages = library.read_blocks(cache, np.array([3, 1], np.int32))
    cache["k"][:], cache["s"][:] = 9, 9
    library.write_blocks(cache, np.array([3, 1], np.int32), pages)
    np.testing.assert_array_equal(cache["k"][:, 0, 0, 0].astype(int), [9, 1, 9, 1, 9])
    np.testing.assert_array_equal(cache["s"][:, 0, 0], [9, 2, 9, 2, 9])


def test_a_weight_is_copied_rounded_and_counted() -> None:
    library = ReferenceLibrary()
    stored = np.full((4, 6), 1.001, np.float32).T
    stored.setflags(write=False)
    held = library.put_weight(Weight("w", shape_of(6, 4), Src("w", shape_of(6, 4))), stored, "bfloat16")
    assert held.flags.c_contiguous
    assert not np.shares_memory(held, stored)
    np.testing.assert_array_equal(held.astype(np.float32), 1.0)
    assert library.memory()[0] == 6 * 4 * 2
    _cache(library)
    assert library.memory()[0] == 6 * 4 * 2 + 5 * 4 * (3 * 4 * 2 + 2 * 4)


def test_hooks() -> None:
    report = quire_probe("reference", {})
    assert report.available
    assert report.priority < 0, "auto takes it last"
    capabilities = quire_capabilities("reference", {})
    assert capabilities.contract == CONTRACT_VERSION
    assert capabilities.ops == PLAIN_OPS
    with pytest.raises(ConfigError, match="threads"):
        resolve_device("reference", {"threads": "2"})
