"""Integers of 4 and 8 bits that checkpoints pack into words of 32 bits, least significant bits first."""

from __future__ import annotations

import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight consecutive outputs lies in each four bits of a word, from the least significant on."""

_WORDS_AT_ONCE = 1 << 18
_TILE = (64, 256)  # of a transposition: lines that stay in a cache; numpy's own is several times slower


def unpack_rows(words: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [R, W * 32 / bits] from int32 [R, W]: neighbours in a row share a word."""
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed
    pairs = packed.astype(np.uint16)
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)


def unpack_columns(words: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [C, W * 32 / bits], transposed, from int32 [W, C]: neighbours in a column share a word."""
    return unpack_rows(_transposed(words), bits)


def unpack_awq(words: np.ndarray) -> np.ndarray:
    """uint8 [8 * W, R], transposed, from int32 [R, W]: eight outputs in AWQ's order share a word."""
    rows, columns = words.shape
    out = np.empty((columns, 8, rows), np.uint8)
    step = max(1, _WORDS_AT_ONCE // max(rows, 1))
    for start in range(0, columns, step):
        some = np.ascontiguousarray(words[:, start : start + step].T).view(np.uint32)
        for place, output in enumerate(AWQ_ORDER):
            out[start : start + step, output] = (some >> (4 * place)) & 15
    return out.reshape(8 * columns, rows)


def _transposed(words: np.ndarray) -> np.ndarray:
    rows, columns = words.shape
    out = np.empty((columns, rows), words.dtype)
    for column in range(0, columns, _TILE[0]):
        for row in range(0, rows, _TILE[1]):
            tile = words[row : row + _TILE[1], column : column + _TILE[0]]
            out[column : column + _TILE[0], row : row + _TILE[1]] = tile.T
    return out
