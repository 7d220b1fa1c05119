"""What the reference declares: a row's bits do not depend on the rest of the batch."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from quire import reference

ROWS = 37
RowOp = Callable[[np.ndarray], np.ndarray]


def _row_ops(width: int) -> dict[str, RowOp]:
    rng = np.random.default_rng(width)
    weight, matrix = rng.standard_normal(width, np.float32), rng.standard_normal((2 * width + 1, width), np.float32)
    w13, w2 = rng.standard_normal((3, 10, width), np.float32), rng.standard_normal((3, width, 5), np.float32)

    def mixture(x: np.ndarray) -> np.ndarray:
        ids, weights = reference.route_experts(x[:, :3], k=2)
        return reference.experts(x, ids, weights, w13, w2, act="gelu_tanh")

    return {
        "linear": lambda x: reference.linear(x, matrix, matrix[:, 0]),
        "rms_norm": lambda x: reference.rms_norm(x, weight, eps=1e-6, round_before_weight=True),
        "layer_norm": lambda x: reference.layer_norm(x, weight, weight, eps=1e-6),
        "activation": lambda x: reference.activation(x, act="gelu"),
        "gated_activation": lambda x: reference.gated_activation(
            *reference.split(x, sizes=(1, 1, width - 2))[:2], act="silu"
        ),
        "softcap": lambda x: reference.softcap(x, cap=3.0),
        "experts": mixture,
    }


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [3, 16, 100, 515])
@pytest.mark.parametrize("op", list(_row_ops(3)))
def test_rows_do_not_see_each_other(op: str, width: int, dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal((ROWS, width)).astype(dtype)
    function = _row_ops(width)[op]
    whole = function(x)
    for start, end in ((0, 1), (5, 6), (36, 37), (2, 9), (8, 36)):
        np.testing.assert_array_equal(function(x[start:end]), whole[start:end])
    np.testing.assert_array_equal(function(x[::-1]), whole[::-1])


@pytest.mark.parametrize("op", list(_row_ops(3)))
def test_strides_do_not_change_bits(op: str) -> None:
    """Results of `split` are views with long rows, and columns of a transposed array are views with long steps."""
    x = np.random.default_rng(0).standard_normal((ROWS, 515), np.float32)
    function = _row_ops(515)[op]
    wide = np.zeros((ROWS, 1200), np.float32)
    wide[:, 7:522], every_second = x, np.repeat(x, 2, axis=1)[:, ::2]
    for view in (wide[:, 7:522], every_second, np.asfortranarray(x)):
        np.testing.assert_array_equal(function(view), function(x))
