"""Additive and history-dependent changes of logits: bias, repetition, presence and frequency penalties.

Only the tokens concerned are touched, so the cost follows the history's length and not the vocabulary's.
Source: repetition penalty, CTRL, arXiv:1909.05858; presence and frequency penalties, the OpenAI API reference.
"""

from __future__ import annotations

import numpy as np

from quire.sampling.batch import F32, I32


def add_bias(logits_V: F32, tokens: I32, values: F32) -> None:
    """logits[tokens] += values; a token that stands twice gets both."""
    np.add.at(logits_V, tokens, values)


def apply_penalties(
    logits_V: F32,
    prompt_tokens: I32,
    output_tokens: I32,
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> None:
    """Changes the logits of tokens already seen, in place.

    First the repetition penalty, over prompt and output: positive logits are divided by it, others multiplied. Then
    every token of the output loses `frequency` per occurrence and `presence` once. All in float32.
    """
    if repetition != 1.0:
        seen = np.unique(np.concatenate([prompt_tokens, output_tokens]))
        factor = np.float32(repetition)
        values = logits_V[seen]
        logits_V[seen] = np.where(values > 0, values / factor, values * factor)
    if (presence != 0.0 or frequency != 0.0) and len(output_tokens):
        seen, counts = np.unique(output_tokens, return_counts=True)
        logits_V[seen] -= np.float32(frequency) * counts.astype(np.float32)
        logits_V[seen] -= np.float32(presence)
