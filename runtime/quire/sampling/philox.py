"""Counter-based random numbers: Philox 4x32-10, and the Gumbel noise that every draw uses.

A draw's noise is a pure function of (seed, sequence index, position, token id). It needs no state, so it is the
same in any batch, in any order, after any preemption, and on any device that implements these few lines.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quire.sampling.batch import F32, U32

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_HIGH = np.uint64(32)
_CHUNK = 8192  # counters per call: the intermediate arrays stay in the cache

U_MAX = np.float32(1.0 - 2.0**-24)
"""Largest uniform number: the float32 just below 1."""

GUMBEL_MAX = 16.64
"""No Gumbel number is above this: -log(-log(U_MAX)) is 16.636."""


def philox4x32(
    counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: tuple[ArrayLike, ArrayLike]
) -> tuple[U32, U32, U32, U32]:
    """Ten rounds of Philox 4x32 over broadcast uint32 counter words and key words; four uint32 words.

    The results have at least one dimension: NumPy wraps arrays silently, as meant here, but warns about scalars.
    """
    c0, c1, c2, c3 = (np.atleast_1d(np.asarray(word, np.uint32)) for word in counter)
    k0, k1 = (np.atleast_1d(np.asarray(word, np.uint32)) for word in key)
    for _ in range(10):
        product0 = np.multiply(c0, _MULTIPLIERS[0], dtype=np.uint64)
        product1 = np.multiply(c2, _MULTIPLIERS[1], dtype=np.uint64)
        c0 = (product1 >> _HIGH).astype(np.uint32) ^ (c1 ^ k0)
        c1 = product1.astype(np.uint32)
        c2 = (product0 >> _HIGH).astype(np.uint32) ^ (c3 ^ k1)
        c3 = product0.astype(np.uint32)
        k0, k1 = k0 + _KEY_STEPS[0], k1 + _KEY_STEPS[1]
    return c0, c1, c2, c3


def gumbel(seed: ArrayLike, sequence_index: ArrayLike, position: ArrayLike, token_ids: ArrayLike) -> F32:
    """Standard Gumbel noise, float32, of the arguments' broadcast shape (at least one dimension).

    counter = (token_id >> 2, position, sequence_index, 0), key = (low, high word of seed), word = token_id & 3.

    Args:
        seed: uint64. sequence_index: uint32, which of the request's n. position: int32, the index in the sequence
            that the drawn token will have. token_ids: int32, not negative.
    """
    tokens = np.asarray(token_ids, np.uint32)
    words = philox4x32((tokens >> np.uint32(2), position, sequence_index, 0), _key(seed))
    return _gumbel_of_bits(np.choose(tokens & np.uint32(3), words))


def gumbel_all(seed: ArrayLike, sequence_index: ArrayLike, position: ArrayLike, vocab_size: int) -> F32:
    """`gumbel` of every token id below `vocab_size`, float32 [..., vocab_size], at a quarter of the Philox calls.

    The keys share one shape [...]; tokens are the new last axis.
    """
    keys = [np.asarray(word)[..., None] for word in (position, sequence_index, *_key(seed))]
    noise = np.empty((*keys[2].shape[:-1], vocab_size), np.float32)
    step = max(_CHUNK // keys[2].size, 1)
    for start in range(0, (vocab_size + 3) // 4, step):
        blocks = np.arange(start, min(start + step, (vocab_size + 3) // 4), dtype=np.uint32)
        words = philox4x32((blocks, keys[0], keys[1], 0), (keys[2], keys[3]))
        bits = np.stack(words, axis=-1)  # [..., blocks, 4]
        tokens = _gumbel_of_bits(bits.reshape(*bits.shape[:-2], -1))
        noise[..., 4 * start : 4 * (start + step)] = tokens[..., : vocab_size - 4 * start]
    return noise


def _key(seed: ArrayLike) -> tuple[U32, U32]:
    seed = np.asarray(seed, np.uint64)
    return (seed & np.uint64(0xFFFFFFFF)).astype(np.uint32), (seed >> _HIGH).astype(np.uint32)


def _gumbel_of_bits(bits: U32) -> F32:
    """-log(-log(u)) in float32 with u = ((bits >> 8) + 0.5) * 2**-24, at most U_MAX.

    Without the bound, the largest 24-bit number plus a half rounds up to u = 1 in float32: an infinite score for one
    token in 2**24, which in a large vocabulary would be a meaningless token every hundred draws.
    """
    uniform: NDArray[np.float32] = (bits >> np.uint32(8)).astype(np.float32)
    uniform += np.float32(0.5)
    uniform *= np.float32(2.0**-24)
    np.minimum(uniform, U_MAX, out=uniform)
    np.negative(np.log(uniform, out=uniform), out=uniform)
    return np.negative(np.log(uniform, out=uniform), out=uniform)
