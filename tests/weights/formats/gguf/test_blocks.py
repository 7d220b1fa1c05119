"""Decoding of blocks against the `gguf` package, bit for bit; integers against the decoded numbers."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from quire.weights.formats.gguf.block_types import BLOCK_TYPES, READABLE, BlockType
from quire.weights.formats.gguf.blocks import _CHUNK_VALUES, dequantize_rows, to_matrix
from quire.weights.schemes import WeightScheme, dequantize, quantize
from tests.gguf_export import FLOAT16_OFFSETS, random_blocks

QUANTIZED = {kind.name: number for number, kind in BLOCK_TYPES.items() if kind.scheme not in (None, "plain")}
EXACT = ("Q4_0", "Q5_0", "Q8_0", "Q6_K")
ROWS, INPUTS = 23, 768


def random_rows(name: str, rows: int = ROWS) -> np.ndarray:
    """uint8 [rows, bytes of a row]."""
    return random_blocks(gguf.GGMLQuantizationType[name], rows, INPUTS)


def kind_of(name: str) -> BlockType:
    return BLOCK_TYPES[QUANTIZED[name]]


def test_types_are_those_of_the_package() -> None:
    for number, kind in BLOCK_TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.size, kind.nbytes)) == (theirs.name, gguf.GGML_QUANT_SIZES[theirs])
    assert set(READABLE) == {"F32", "F16", "BF16", *FLOAT16_OFFSETS}


@pytest.mark.parametrize("name", FLOAT16_OFFSETS)
def test_floats_are_bitwise_those_of_the_package(name: str) -> None:
    data = random_rows(name)
    ours = dequantize_rows(kind_of(name), data.reshape(-1), INPUTS)
    theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(QUANTIZED[name]))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_the_package_quantized_is_read(name: str) -> None:
    weights = np.random.default_rng(1).normal(size=(ROWS, INPUTS)).astype(np.float32)
    data = gguf.quants.quantize(weights, gguf.GGMLQuantizationType(QUANTIZED[name]))
    error = np.abs(dequantize_rows(kind_of(name), data.reshape(-1), INPUTS) - weights).max()
    assert error < {"Q8_0": 0.03, "Q5_0": 0.3, "Q5_1": 0.2, "Q4_0": 0.6, "Q4_1": 0.4}[name]


@pytest.mark.parametrize("name", FLOAT16_OFFSETS)
def test_integers(name: str) -> None:
    data = random_rows(name).reshape(-1)
    kind, floats = kind_of(name), dequantize_rows(kind_of(name), data, INPUTS)
    matrix = to_matrix(kind, data, INPUTS)
    assert (matrix.scheme.name, matrix.shape) == (kind.scheme, (ROWS, INPUTS))
    if name in EXACT:
        np.testing.assert_array_equal(dequantize(matrix), floats)
    elif kind.is_rounded_again:
        np.testing.assert_array_equal(matrix.values, quantize(floats, WeightScheme.parse("int8_g32")).values)
    else:
        assert matrix.zeros is not None
        assert np.abs(dequantize(matrix) - floats).max() <= 1e-6 * np.abs(floats).max()


@pytest.mark.parametrize(("scale", "minimum"), [(0.0, 0.25), (0.0, 0.0), (6e-8, 0.25), (-6e-8, -4.0)])
def test_a_group_whose_minimum_no_zero_point_can_hold_is_that_minimum(scale: float, minimum: float) -> None:
    data = random_rows("Q4_1", rows=2)
    blocks = data.reshape(-1, 20)
    blocks[3, :4] = np.array([scale, minimum], "<f2").view(np.uint8)
    matrix = to_matrix(kind_of("Q4_1"), data.reshape(-1), INPUTS)
    assert matrix.zeros is not None
    assert np.isfinite(matrix.zeros.astype(np.float16)).all()
    np.testing.assert_allclose(
        dequantize(matrix), dequantize_rows(kind_of("Q4_1"), data.reshape(-1), INPUTS), rtol=3e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_large_tensors_are_decoded_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_rows(name).reshape(-1)
    whole, floats = to_matrix(kind_of(name), data, INPUTS), dequantize_rows(kind_of(name), data, INPUTS)
    assert _CHUNK_VALUES > ROWS * INPUTS
    monkeypatch.setattr("quire.weights.formats.gguf.blocks._CHUNK_VALUES", 5 * INPUTS)
    pieces = to_matrix(kind_of(name), data, INPUTS)
    np.testing.assert_array_equal(pieces.values, whole.values)
    np.testing.assert_array_equal(pieces.scales, whole.scales)
    np.testing.assert_array_equal(dequantize_rows(kind_of(name), data, INPUTS), floats)
