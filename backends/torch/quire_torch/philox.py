"""The core's random numbers in torch: Philox 4x32-10 and Gumbel noise, as `quire.sampling.philox` defines them.

torch has no arithmetic on uint32, so the words are int64 below 2**32. A product of two of them wraps around, and its
low 64 bits are right all the same; the arithmetic shift's sign bits are masked away.
"""

from __future__ import annotations

import torch

from quire.sampling.philox import U_MAX

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox4x32(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Ten rounds over broadcast counter and key words, all int64 in [0, 2**32); four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) & _WORD) ^ c1 ^ k0, product1 & _WORD
        c2, c3 = ((product0 >> 32) & _WORD) ^ c3 ^ k1, product0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def gumbel(
    seed: tuple[torch.Tensor, torch.Tensor], sequence_index: torch.Tensor, position: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Standard Gumbel noise of every token id below `vocab_size`: float32 [R, vocab_size].

    Args:
        seed: low and high word. sequence_index, position: all int64 [R] in [0, 2**32).
    """
    blocks = torch.arange((vocab_size + 3) // 4, device=position.device)[None, :]
    low, high, sequence_index, position = (word[:, None] for word in (*seed, sequence_index, position))
    zero = torch.zeros((1, 1), dtype=torch.int64, device=position.device)
    words = philox4x32((blocks, position, sequence_index, zero), (low, high))
    bits = torch.stack(words, dim=-1).flatten(1)[:, :vocab_size]
    uniform = (((bits >> 8).to(torch.float32) + 0.5) * 2.0**-24).clamp_(max=float(U_MAX))
    return uniform.log_().neg_().log_().neg_()
