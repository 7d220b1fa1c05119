"""The core's random numbers in jax.numpy: Philox 4x32-10 and Gumbel noise, as `quire.sampling.philox` defines them.

Accelerators without 64-bit integers multiply 32 by 32 bits in four products of halves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from quire.sampling.philox import U_MAX

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFF

Words = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _product(a: jax.Array, b: int) -> tuple[jax.Array, jax.Array]:
    """High and low word of a * b, uint32."""
    a_low, a_high = a & _LOW, a >> 16
    b_low, b_high = jnp.uint32(b & _LOW), jnp.uint32(b >> 16)
    low, middle, other = a_low * b_low, a_high * b_low, a_low * b_high
    carry = ((low >> 16) + (middle & _LOW) + (other & _LOW)) >> 16
    return a_high * b_high + (middle >> 16) + (other >> 16) + carry, a * jnp.uint32(b)


def philox4x32(counter: Words, key: tuple[jax.Array, jax.Array]) -> Words:
    """Ten rounds over broadcast uint32 counter and key words; four uint32 words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + jnp.uint32(_KEY_STEPS[0]), k1 + jnp.uint32(_KEY_STEPS[1])
    return c0, c1, c2, c3


def gumbel(
    seed: tuple[jax.Array, jax.Array], sequence_index: jax.Array, position: jax.Array, vocab_size: int
) -> jax.Array:
    """Standard Gumbel noise of every token id below `vocab_size`: float32 [R, vocab_size].

    Args:
        seed: low and high word. sequence_index, position: all uint32 [R].
    """
    blocks = jnp.arange((vocab_size + 3) // 4, dtype=jnp.uint32)[None, :]
    low, high, sequence, place = (word[:, None] for word in (*seed, sequence_index, position))
    words = philox4x32((blocks, place, sequence, jnp.zeros((1, 1), jnp.uint32)), (low, high))
    bits = jnp.stack(jnp.broadcast_arrays(*words), axis=-1).reshape(low.shape[0], -1)[:, :vocab_size]
    uniform = jnp.minimum(((bits >> 8).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-24), U_MAX)
    return -jnp.log(-jnp.log(uniform))
