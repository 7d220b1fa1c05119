"""Decoding the blocks of quantized tensors: to float32, bit for bit as ggml's reference does, and to integers.

Every type is a function from blocks [B] of its record to levels q, scales and, where it has them, minima:
value = scale * q (- minimum). Shapes here: B blocks, S values per block, G groups per block.
Source: the block layouts of ggml (ggml-common.h) as the `gguf` package states them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from quire.errors import InternalError
from quire.weights.formats.gguf.block_types import BlockType
from quire.weights.schemes import QuantizedMatrix, WeightScheme, quantize

PLAIN_DTYPES: Mapping[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

_RECORDS: Mapping[str, np.dtype] = {
    "Q4_0": np.dtype([("d", "<f2"), ("qs", "u1", 16)]),
    "Q4_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)]),
    "Q5_0": np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]),
    "Q5_1": np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)]),
    "Q8_0": np.dtype([("d", "<f2"), ("qs", "i1", 32)]),
    "Q4_K": np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)]),
    "Q5_K": np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)]),
    "Q6_K": np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")]),
}

_CHUNK_VALUES = 2**24
_LARGEST_ZERO = 60000.0  # zero points are float16 where devices keep them


@dataclass(frozen=True, slots=True)
class Levels:
    """Blocks in integers: value = scale * q - minimum.

    Attributes:
        values: int8 [B, S]. scales: float32 [B, G].
        minima: float32 [B, G], or None where there are none.
    """

    values: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None = None


def dequantize_rows(kind: BlockType, data: np.ndarray, inputs: int) -> np.ndarray:
    """float32 [rows, inputs] of a quantized tensor's data, uint8 [bytes]."""
    return np.concatenate(
        [_floats(kind, chunk).reshape(-1, inputs) for chunk in _chunks(kind, data, inputs)]
        or [np.empty((0, inputs), np.float32)]
    )


def to_matrix(kind: BlockType, data: np.ndarray, inputs: int) -> QuantizedMatrix:
    """The matrix [rows, inputs] in the type's scheme; exact unless `kind.is_rounded_again`.

    Zero points come from dividing minimum by scale, so that float32 rounds; a group without a scale, or with a minimum
    of more than 60000 scales, is the minimum throughout.
    """
    if kind.scheme is None:
        raise InternalError(f"{kind.name} has no scheme")
    scheme = WeightScheme.parse(kind.scheme)
    chunks = _chunks(kind, data, inputs)
    if kind.is_rounded_again:
        parts = [quantize(_floats(kind, chunk).reshape(-1, inputs), scheme) for chunk in chunks]
    else:
        parts = [_matrix(_DECODERS[kind.name](chunk), scheme, inputs) for chunk in chunks]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantizedMatrix(
        scheme,
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zeros) if zeros else None,
    )


def _chunks(kind: BlockType, data: np.ndarray, inputs: int) -> list[np.ndarray]:
    """The tensor's records in pieces of whole rows: what is made of them on the way stays small."""
    records = data.view(_RECORDS[kind.name])
    rows, blocks = len(records) * kind.size // inputs, inputs // kind.size
    step = max(1, _CHUNK_VALUES // inputs)
    return [records[start * blocks : (start + step) * blocks] for start in range(0, rows, step)]


def _floats(kind: BlockType, records: np.ndarray) -> np.ndarray:
    levels = _DECODERS[kind.name](records)
    num_blocks, num_groups = levels.scales.shape
    grouped = levels.values.reshape(num_blocks, num_groups, -1).astype(np.float32)
    grouped *= levels.scales[:, :, None]
    if levels.minima is not None:
        grouped -= levels.minima[:, :, None]
    return grouped


def _matrix(levels: Levels, scheme: WeightScheme, inputs: int) -> QuantizedMatrix:
    values = levels.values.reshape(-1, inputs)
    scales = levels.scales.reshape(len(values), -1)
    if levels.minima is None:
        if scheme.bits == 4:
            values = values + np.int8(scheme.default_zero)
        return QuantizedMatrix(scheme, values, scales)
    minima = levels.minima.reshape(scales.shape)
    flat = np.abs(minima) > np.abs(scales) * np.float32(_LARGEST_ZERO)
    zeros = np.divide(minima, scales, out=np.zeros_like(scales), where=~flat & (scales != 0))
    if flat.any():
        zeros[flat], scales = 1.0, np.where(flat, minima, scales)
        values = np.where(np.repeat(flat, scheme.group_size, axis=1), np.int8(0), values)
    return QuantizedMatrix(scheme, values, scales, zeros)


def _nibbles(packed: np.ndarray, stride: int) -> np.ndarray:
    """uint8 [B, 2n] of [B, n] bytes: the low halves of each `stride` bytes, then their high halves."""
    grouped = packed.reshape(len(packed), -1, 1, stride)
    return np.concatenate([grouped & 0x0F, grouped >> 4], axis=2).reshape(len(packed), -1)


def _bits(packed: np.ndarray) -> np.ndarray:
    """uint8 [B, 8n] of [B, n] bytes, the lowest bit first."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _half(records: np.ndarray, name: str) -> np.ndarray:
    return records[name].astype(np.float32)[:, None]


def _q4_0(records: np.ndarray) -> Levels:
    return Levels(_nibbles(records["qs"], 16).view(np.int8) - np.int8(8), _half(records, "d"))


def _q4_1(records: np.ndarray) -> Levels:
    return Levels(_nibbles(records["qs"], 16).view(np.int8), _half(records, "d"), -_half(records, "m"))


def _q5_0(records: np.ndarray) -> Levels:
    return Levels(_five_bits(records) - np.int8(16), _half(records, "d"))


def _q5_1(records: np.ndarray) -> Levels:
    return Levels(_five_bits(records), _half(records, "d"), -_half(records, "m"))


def _five_bits(records: np.ndarray) -> np.ndarray:
    return (_nibbles(records["qs"], 16) | (_bits(records["qh"]) << 4)).view(np.int8)


def _q8_0(records: np.ndarray) -> Levels:
    return Levels(records["qs"], _half(records, "d"))


def _q4_k(records: np.ndarray) -> Levels:
    return Levels(_nibbles(records["qs"], 32).view(np.int8), *_scales_and_minima(records))


def _q5_k(records: np.ndarray) -> Levels:
    high = _bits(records["qh"]).reshape(len(records), 32, 8).transpose(0, 2, 1)  # bit i of byte j: value j of group i
    values = _nibbles(records["qs"], 32) | (high.reshape(len(records), 256) << 4)
    return Levels(values.view(np.int8), *_scales_and_minima(records))


def _q6_k(records: np.ndarray) -> Levels:
    quarters = (records["qh"].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], np.uint8)) & 3
    values = _nibbles(records["ql"], 64) | (quarters.reshape(len(records), 256) << 4)
    return Levels(values.view(np.int8) - np.int8(32), _half(records, "d") * records["scales"].astype(np.float32))


def _scales_and_minima(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight scales and eight minima of 6 bits in 12 bytes; the last four of each keep their two high bits apart."""
    low, mid, high = np.split(records["scales"], 3, axis=1)
    scales = np.concatenate([low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)], axis=1)
    minima = np.concatenate([mid & 0x3F, (high >> 4) | ((mid >> 2) & 0x30)], axis=1)
    return _half(records, "d") * scales.astype(np.float32), _half(records, "dmin") * minima.astype(np.float32)


_DECODERS: Mapping[str, Callable[[np.ndarray], Levels]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
