"""Element-wise ops, views and single-rank collectives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from quire.errors import BackendError, InternalError
from quire.graph.ops import ACTIVATIONS
from quire.ops.activation import activation
from quire.ops.add import add
from quire.ops.all_gather import all_gather
from quire.ops.all_reduce import all_reduce
from quire.ops.gated_activation import gated_activation
from quire.ops.reshape import reshape
from quire.ops.scale import scale
from quire.ops.softcap import softcap
from quire.ops.split import split
from quire.ops.take_rows import take_rows

_TORCH = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def test_every_activation_is_tested() -> None:
    assert set(_TORCH) == set(ACTIVATIONS)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activation_is_torchs(act: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 201), [-200.0, 200.0, 0.0]]).astype(np.float32).reshape(3, -1)
    expected = _TORCH[act](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(activation(x, act=act), expected, rtol=2e-6, atol=1e-6)
    up = np.linspace(1, 2, x.size, dtype=np.float32).reshape(x.shape)
    np.testing.assert_allclose(gated_activation(x, up, act=act), expected * up, rtol=2e-6, atol=2e-6)


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(InternalError, match="swish9"):
        activation(np.zeros((1, 1), np.float32), act="swish9")


def test_gated_activation_rounds_once() -> None:
    rng = np.random.default_rng(0)
    gate, up = (rng.standard_normal((20, 30)).astype(ml_dtypes.bfloat16) for _ in range(2))
    exact = gated_activation(gate.astype(np.float32), up.astype(np.float32), act="silu")
    np.testing.assert_array_equal(gated_activation(gate, up, act="silu"), exact.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_add_scale_softcap_keep_the_dtype(dtype: type) -> None:
    a, b = np.array([[1.0, -3.0, 50.0]], dtype), np.array([[0.5, 7.0, 2.0]], dtype)
    for result, expected in (
        (add(a, b), [[1.5, 4.0, 52.0]]),
        (scale(a, factor=0.5), [[0.5, -1.5, 25.0]]),
        (softcap(a, cap=10.0), [10 * np.tanh(np.array([0.1, -0.3, 5.0]))]),
    ):
        assert result.dtype == dtype
        np.testing.assert_allclose(result.astype(np.float32), expected, rtol=1e-2 if dtype != np.float32 else 1e-6)


def test_float16_overflow_is_inf_without_a_warning() -> None:
    big = np.array([60000.0], np.float16)
    with np.errstate(all="raise"):
        assert np.isinf(add(big, big)).all()


def test_views() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 12)
    first, second = split(x, sizes=(4, 8))
    np.testing.assert_array_equal(first, x[:, :4])
    np.testing.assert_array_equal(second, x[:, 4:])
    assert np.shares_memory(first, x)
    top, bottom = split(x, sizes=(1, 1), axis=0)
    np.testing.assert_array_equal(np.concatenate([top, bottom]), x)
    np.testing.assert_array_equal(reshape(x, shape=(-1, 3, 4))[1, 2], [20, 21, 22, 23])
    np.testing.assert_array_equal(take_rows(x, np.array([1, 1, 0])), x[[1, 1, 0]])


def test_collectives_of_one_rank_and_no_more() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(all_reduce(x), x)
    np.testing.assert_array_equal(all_reduce(x, np.array([1, 2, 3], np.float32)), x + np.array([1, 2, 3]))
    np.testing.assert_array_equal(all_gather(x, axis=-1, size=3), x)
    np.testing.assert_array_equal(all_gather(x, axis=-1, size=2), x[:, :2])
    with pytest.raises(BackendError, match="2 ranks"):
        all_reduce(x, world_size=2)
    with pytest.raises(BackendError, match="2 ranks"):
        all_gather(x, axis=-1, size=6, world_size=2)
