"""The tokens that L1, L3 and L6 run: the same every time, clear of near ties where experts are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.testing.conform.routing import clear_greedy_start, clear_tokens, routes
from quire.testing.conform.tiny_models import VOCAB

LENGTHS = (23, 9, 1, 14)
"""Prompt lengths; with blocks of 16 they end in, at and behind a block."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a model whose weights are held in `weight_dtype`.

    Models without experts all have the same ones.
    """

    family: str
    weight_dtype: str

    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """A prompt of each of LENGTHS."""
        return tuple(self.after((), tokens) for tokens in plain_prompts())

    def long(self, block_size: int) -> tuple[int, ...]:
        """A block and a bit."""
        return self.after((), _drawn(13, (block_size + 3,))[0])

    def after(self, prefix: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
        """Tokens to follow `prefix`: those given, as far as no choice of experts is close."""
        if not routes(self.family):
            return tuple(tokens)
        return clear_tokens(self.family, self.weight_dtype, tuple(prefix), tuple(tokens))

    def to_continue(self, num_greedy: int) -> tuple[tuple[int, ...], ...]:
        """Prompts of three lengths for lines that go on with `num_greedy` likeliest tokens."""
        drawn = plain_prompts()
        if not routes(self.family):
            return drawn[1:]
        return tuple(
            clear_greedy_start(self.family, self.weight_dtype, tokens, num_greedy)
            for tokens in (drawn[1], drawn[2] + drawn[1][:1], drawn[3])
        )


def plain_prompts() -> tuple[tuple[int, ...], ...]:
    """The prompts before any token is replaced, for cases that hold a device against itself."""
    return _drawn(11, LENGTHS)


def _drawn(seed: int, lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    rng = np.random.default_rng(seed)
    return tuple(tuple(int(token) for token in rng.integers(0, VOCAB, length)) for length in lengths)
