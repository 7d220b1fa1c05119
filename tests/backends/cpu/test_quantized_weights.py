"""Integers in panels: the native rounding is quire.weights.schemes.quantize bit for bit, and a checkpoint's integers
arrive as they are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from quire.weights.schemes import QuantizedMatrix, WeightScheme, dequantize, quantize
from quire_cpu import _native
from quire_cpu.plugin import CAPABILITIES

SCHEMES = sorted(CAPABILITIES.weight_schemes - {"plain"})
KERNELS = _native.available_kernels()


def native_plan(kernels: str) -> _native.Plan:
    return _native.Plan(
        kernels=kernels,
        threads=2,
        poison=True,
        kv_dtype="float32",
        block_size=16,
        max_tokens=4,
        max_seqs=2,
        max_logits=2,
        max_len=32,
        vocab_size=10,
    )


def declared(plan: _native.Plan, scheme: WeightScheme, rows: int, inputs: int) -> int:
    return plan.add_linear(f"int{scheme.bits}", rows, inputs, scheme.group_size, scheme.has_zeros)


def unpacked(plan: _native.Plan, handle: int, rows: int, inputs: int) -> np.ndarray:
    out = np.full((rows, inputs), np.nan, np.float32)
    plan.unpack_linear(handle, out)
    return out


def awkward_rows(rows: int, inputs: int) -> np.ndarray:
    """Rows of many sizes: outliers, halves that are ties, one sign only, zeros, and nearly nothing."""
    rng = np.random.default_rng([rows, inputs])
    weights = rng.standard_normal((rows, inputs)) * np.exp(rng.uniform(-12, 4, (rows, 1)))
    weights[0] = 0
    weights[1] = np.abs(weights[1])
    weights[2] = -np.abs(weights[2])
    weights[3] = np.arange(inputs) % 255 - 127
    weights[4, ::3] = 0.5 * np.arange(len(weights[4, ::3]))
    weights[5, :] = 0
    weights[5, -1] = -3
    weights[6] *= 1e-30
    weights[7, 1] *= 1000
    return weights.astype(np.float32)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("inputs", [256, 300, 20])
def test_native_rounding_is_that_of_the_reference(name: str, inputs: int, kernels: str) -> None:
    scheme, plan = WeightScheme.parse(name), native_plan(kernels)
    weights = awkward_rows(37, inputs)
    for array, dtype in ((weights, "float32"), (weights.astype(ml_dtypes.bfloat16), "bfloat16")):
        handle = declared(plan, scheme, *weights.shape)
        segments = [array[:5], array[5:]]
        plan.pack_linear(handle, [(part.view(np.uint16) if dtype == "bfloat16" else part, dtype) for part in segments])
        np.testing.assert_array_equal(unpacked(plan, handle, *weights.shape), dequantize(quantize(array, scheme)))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", SCHEMES)
def test_integers_of_a_checkpoint_are_kept(name: str, kernels: str) -> None:
    scheme, plan = WeightScheme.parse(name), native_plan(kernels)
    rng = np.random.default_rng(3)
    rows, inputs = 21, 160
    groups = scheme.num_groups(inputs)
    low, high = (-128, 128) if scheme.bits == 8 else (0, 16)
    values = rng.integers(low, high, (rows, inputs)).astype(np.int8)
    # float16 numbers, as checkpoints hold them; of either sign
    scales = (rng.standard_normal((rows, groups)) * 0.1).astype(np.float16).astype(np.float32)
    zeros = rng.integers(0, 16, (rows, groups)).astype(np.float32) if scheme.has_zeros else None
    matrix = QuantizedMatrix(scheme, values, scales, zeros)
    handle = declared(plan, scheme, rows, inputs)
    plan.pack_quantized(handle, values, scales, zeros)
    np.testing.assert_array_equal(unpacked(plan, handle, rows, inputs), dequantize(matrix))


def test_arrays_that_do_not_fit_are_refused() -> None:
    plan = native_plan(KERNELS[0])
    handle = plan.add_linear("int4", 8, 64, 32, False)
    values, scales = np.zeros((8, 64), np.int8), np.ones((8, 2), np.float32)
    plan.pack_quantized(handle, values, scales, None)
    for wrong in ((values[:7], scales, None), (values, scales[:, :1].copy(), None), (values, scales, scales)):
        with pytest.raises(ValueError, match="do not fit the matrix"):
            plan.pack_quantized(handle, *wrong)
    for group in (0, 16, 96, -32):
        with pytest.raises(ValueError, match="no kernels for groups"):
            plan.add_linear("int4", 8, 64, group, False)
    with pytest.raises(ValueError, match="no kernels for groups of 32 with zero points"):
        plan.add_linear("int8", 8, 64, 32, True)
