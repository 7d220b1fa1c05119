"""Rotary embedding as complex multiplication."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quire.errors import InternalError
from quire.graph.rope import RopeSpec
from quire.ops.rotary import rotary


def _by_complex_numbers(x: np.ndarray, positions: np.ndarray, spec: RopeSpec, style: str) -> np.ndarray:
    """Pairs as complex numbers, turned by exp(i * position * frequency), in float64."""
    half = spec.dims // 2
    first = np.arange(half) if style == "neox" else np.arange(0, spec.dims, 2)
    second = first + (half if style == "neox" else 1)
    z = x[..., first].astype(np.float64) + 1j * x[..., second].astype(np.float64)
    frequencies = spec.theta ** (-np.arange(half) * 2.0 / spec.dims)
    z = z * np.exp(1j * positions[:, None, None] * frequencies)
    out = x.astype(np.float64).copy()
    out[..., first], out[..., second] = z.real, z.imag
    return out


@pytest.mark.parametrize("style", ["neox", "gptj"])
@pytest.mark.parametrize("dims", [16, 8])
def test_rotary_turns_pairs(style: str, dims: int) -> None:
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((6, 3, 16), np.float32), np.array([0, 1, 2, 40, 7, 63], np.int32)
    spec = RopeSpec(theta=10000.0, dims=dims)
    result = rotary(x, positions, table=spec, style=style, max_len=64)
    np.testing.assert_allclose(result, _by_complex_numbers(x, positions, spec, style), atol=2e-5)
    np.testing.assert_array_equal(result[..., dims:], x[..., dims:])
    np.testing.assert_array_equal(result, rotary(x, positions, table=spec, style=style))


def test_rotary_does_not_touch_its_input_and_keeps_the_dtype() -> None:
    x = np.ones((2, 1, 4), ml_dtypes.bfloat16)
    result = rotary(x, np.array([3, 4], np.int32), table=RopeSpec(theta=100.0, dims=4))
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(x.astype(np.float32), 1)


def test_scores_depend_on_the_distance_only() -> None:
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 1, 1, 8), np.float32)
    spec = RopeSpec(theta=10000.0, dims=8)

    def score(i: int, j: int) -> float:
        return float((rotary(q, np.array([i]), table=spec) * rotary(k, np.array([j]), table=spec)).sum())

    assert score(9, 4) == pytest.approx(score(30, 25), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)


def test_refusals() -> None:
    x = np.zeros((1, 1, 4), np.float32)
    with pytest.raises(InternalError, match="spiral"):
        rotary(x, np.array([0]), table=RopeSpec(theta=10.0, dims=4), style="spiral")
    with pytest.raises(IndexError):
        rotary(x, np.array([8]), table=RopeSpec(theta=10.0, dims=4), max_len=8)


def test_no_tokens() -> None:
    assert rotary(np.zeros((0, 2, 4), np.float32), np.empty(0, np.int32), table=RopeSpec(10.0, 4)).shape == (0, 2, 4)
