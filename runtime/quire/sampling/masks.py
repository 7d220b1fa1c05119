"""Which tokens a row may draw at all: allowed lists, grammar bit masks, banned tokens.

Shapes here: V = vocabulary, as wide as the logits. Functions change the row they are given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quire.sampling.batch import F32, I32, U32


def keep_allowed(logits_V: F32, allowed: I32) -> None:
    """Sets every logit to -inf but those of `allowed`; an empty list allows everything."""
    if len(allowed):
        kept = logits_V[allowed]
        logits_V.fill(-np.inf)
        logits_V[allowed] = kept


def apply_bit_mask(logits_V: F32, mask: U32) -> None:
    """Sets the logits to -inf whose bit is clear. `mask`: uint32 [ceil(V/32)], bit v%32 of word v//32 is token v."""
    logits_V[~mask_bits(mask, len(logits_V))] = -np.inf


def mask_bits(mask: U32, vocab_size: int) -> NDArray[np.bool_]:
    """The bit mask as bool [vocab_size], True = allowed."""
    little_endian = mask.astype("<u4", copy=False).view(np.uint8)
    return np.unpackbits(little_endian, count=vocab_size, bitorder="little").view(np.bool_)


def ban(logits_V: F32, banned: I32) -> None:
    """Sets the logits of `banned` to -inf."""
    logits_V[banned] = -np.inf
