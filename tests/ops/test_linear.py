"""Linear and embedding against float64, and their dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quire.ops.embedding import embedding
from quire.ops.linear import linear


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 24), (0, 24)])
def test_linear_is_the_float64_product(shape: tuple[int, ...], with_bias: bool) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape, np.float32), rng.standard_normal((10, 24), np.float32)
    bias = rng.standard_normal(10, np.float32) if with_bias else None
    expected = np.einsum("...i,oi->...o", x.astype(np.float64), weight.astype(np.float64))
    expected = expected if bias is None else expected + bias
    np.testing.assert_allclose(linear(x, weight, bias), expected, rtol=1e-5, atol=1e-5)


def test_linear_takes_strided_views() -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((4, 40), np.float32), rng.standard_normal((6, 20), np.float32)
    np.testing.assert_array_equal(linear(x[:, ::2], weight), linear(x[:, ::2].copy(), weight))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_linear_rounds_once_unless_float32_is_asked_for(dtype: type) -> None:
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((3, 16)).astype(dtype), rng.standard_normal((5, 16)).astype(dtype)
    bias = rng.standard_normal(5).astype(dtype)
    exact = linear(x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32))
    as_f32, as_act = linear(x, weight, bias, out_dtype="f32"), linear(x, weight, bias)
    assert as_f32.dtype == np.float32
    np.testing.assert_array_equal(as_f32, exact)
    assert as_act.dtype == dtype
    np.testing.assert_array_equal(as_act, exact.astype(dtype))


def test_embedding_rounds_its_scale_first() -> None:
    """sqrt(3584) = 59.87 becomes 59.75 in bfloat16; 3 * 59.75 rounds to 179, 3 * 59.87 would round to 180."""
    weight = np.full((4, 2), 3, ml_dtypes.bfloat16)
    rows = embedding(np.array([3, 0], np.int32), weight, scale=3584**0.5)
    np.testing.assert_array_equal(rows.astype(np.float32), np.full((2, 2), 179, np.float32))
    wide = embedding(np.array([3], np.int32), weight, scale=3584**0.5, dtype=np.dtype(np.float32))
    np.testing.assert_array_equal(wide, np.full((1, 2), 3 * np.float32(3584**0.5)))


def test_embedding_takes_the_rows() -> None:
    weight = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_array_equal(embedding(np.array([5, 5, 1], np.int32), weight), [[10, 11], [10, 11], [2, 3]])


@pytest.mark.parametrize("token", [-1, 6])
def test_embedding_refuses_ids_outside_the_table(token: int) -> None:
    with pytest.raises(IndexError, match=str(token)):
        embedding(np.array([0, token], np.int32), np.zeros((6, 2), np.float32))
