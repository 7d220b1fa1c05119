"""Fused ops are the plain ones in a row, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quire.graph.rope import RopeSpec
from quire.ops.add import add
from quire.ops.add_rms_norm import add_rms_norm
from quire.ops.cache_write import cache_write
from quire.ops.rms_norm import rms_norm
from quire.ops.rotary import rotary
from quire.ops.rotary_cache_write import rotary_cache_write


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_add_rms_norm(dtype: type) -> None:
    rng = np.random.default_rng(0)
    a, b, weight = (rng.standard_normal(s).astype(dtype) for s in ((4, 16), (4, 16), (16,)))
    attrs = {"eps": 1e-6, "weight_offset": 1.0, "round_before_weight": False}
    total, normed = add_rms_norm(a, b, weight, **attrs)
    np.testing.assert_array_equal(total, add(a, b))
    np.testing.assert_array_equal(normed, rms_norm(add(a, b), weight, **attrs))


def test_rotary_cache_write() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(s, np.float32) for s in ((3, 4, 8), (3, 2, 8), (3, 2, 8)))
    positions, slots = np.array([4, 5, 6], np.int32), np.array([9, -1, 2], np.int32)
    table = RopeSpec(theta=10000.0, dims=8)
    caches = [{name: np.zeros((3, 4, 2, 8), np.float32) for name in "kv"} for _ in range(2)]
    rotated, cache = rotary_cache_write(q, k, v, positions, caches[0], slots=slots, table=table)
    cache_write(caches[1], rotary(k, positions, table=table), v, slots=slots)
    np.testing.assert_array_equal(rotated, rotary(q, positions, table=table))
    assert cache is caches[0]
    for name in "kv":
        np.testing.assert_array_equal(caches[0][name], caches[1][name])
