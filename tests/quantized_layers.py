"""Writers of quantized layers, one integer at a time from each format's definition: what readers are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass
class Layer:
    """Integers of a linear layer: q [N, K] from 0, zeros and scales [N, G], the group of each input."""

    q: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    group_of: list[int]

    def dense(self) -> np.ndarray:
        """float32 [N, K], by the definition."""
        out = np.empty(self.q.shape, np.float32)
        for n, row in enumerate(self.q):
            for k, q in enumerate(row):
                group = self.group_of[k]
                out[n, k] = np.float32(int(q) - int(self.zeros[n, group])) * np.float32(self.scales[n, group])
        return out


def random_layer(
    rng: np.random.Generator,
    outputs: int,
    inputs: int,
    *,
    bits: int = 4,
    group_size: int = 32,
    zeros: bool = False,
    dtype: Any = np.float16,
    group_of: Sequence[int] | None = None,
) -> Layer:
    """A layer whose integers reach both ends; `group_size` -1 = one group; zeros are the middle unless `zeros`."""
    size = inputs if group_size == -1 else group_size
    groups, top = -(-inputs // size), 2**bits
    q = rng.integers(0, top, (outputs, inputs))
    q[0, :2] = 0, top - 1
    scales = rng.uniform(0.5, 1.5, (outputs, groups)).astype(np.float32) * (0.5 / top)
    middle = np.full((outputs, groups), top // 2)
    return Layer(
        q,
        scales.astype(dtype),
        rng.integers(1, top, (outputs, groups)) if zeros else middle,
        [k // size for k in range(inputs)] if group_of is None else list(group_of),
    )


def pack(numbers: Sequence[int], bits: int) -> list[int]:
    """Words of 32 bits, as int32, of a run of integers; the first lies in the lowest bits."""
    words = []
    per_word = 32 // bits
    for start in range(0, len(numbers), per_word):
        word = 0
        for place, number in enumerate(numbers[start : start + per_word]):
            word |= int(number) << (bits * place)
        words.append(word - 2**32 if word >= 2**31 else word)
    return words


def pack_rows(array: np.ndarray, bits: int) -> np.ndarray:
    """int32 [R, W]: integers of a row share words."""
    return np.array([pack(list(row), bits) for row in array], np.int32)


def gptq_tensors(layer: Layer, bits: int = 4, *, v2: bool = False, g_idx: bool = True) -> dict[str, np.ndarray]:
    """qweight, qzeros, scales and g_idx; version 1 takes one from every field of a word, with borrows."""
    ones = sum(1 << shift for shift in range(0, 32, bits))
    qzeros = pack_rows(layer.zeros.T, bits)
    if not v2:
        qzeros = np.array([[(int(word) - ones) % 2**32 for word in row] for row in qzeros], np.uint32).view(np.int32)
    tensors = {
        "qweight": np.ascontiguousarray(pack_rows(layer.q, bits).T),
        "qzeros": qzeros,
        "scales": np.ascontiguousarray(layer.scales.T),
    }
    return tensors | ({"g_idx": np.array(layer.group_of, np.int32)} if g_idx else {})


def awq_tensors(layer: Layer) -> dict[str, np.ndarray]:
    """qweight, qzeros, scales of version gemm."""

    def packed(array: np.ndarray) -> np.ndarray:
        shuffled = [[row[start + place] for start in range(0, len(row), 8) for place in AWQ_ORDER] for row in array.T]
        return pack_rows(np.array(shuffled), 4)

    return {"qweight": packed(layer.q), "qzeros": packed(layer.zeros), "scales": np.ascontiguousarray(layer.scales.T)}


def packed_tensors(layer: Layer, bits: int = 4, *, zeros: str = "", g_idx: bool = False) -> dict[str, np.ndarray]:
    """pack-quantized; `zeros`: "" none, "packed" over outputs, "int8" as they are."""
    middle = 2 ** (bits - 1)
    tensors = {
        "weight_packed": pack_rows(layer.q, bits),
        "weight_scale": np.ascontiguousarray(layer.scales),
        "weight_shape": np.array(layer.q.shape, np.int64),
    }
    if zeros == "packed":
        tensors["weight_zero_point"] = np.ascontiguousarray(pack_rows(layer.zeros.T, bits).T)
    elif zeros:
        tensors["weight_zero_point"] = (layer.zeros - middle).astype(np.int8)
    return tensors | ({"weight_g_idx": np.array(layer.group_of, np.int32)} if g_idx else {})


def int8_tensors(layer: Layer, bits: int = 8) -> dict[str, np.ndarray]:
    """int-quantized and naive-quantized."""
    return {
        "weight": (layer.q - 2 ** (bits - 1)).astype(np.int8, order="C"),
        "weight_scale": np.ascontiguousarray(layer.scales),
    }


def of_module(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under a module's name."""
    return {f"{name}.{suffix}": array for suffix, array in tensors.items()}


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16."""
    return array.astype(ml_dtypes.bfloat16)
