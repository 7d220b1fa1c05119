"""Request mixes of the benchmarks: token ids drawn from a seed, no tokenizer needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts as token ids, and how many tokens each one generates (end of text ignored)."""

    prompts: tuple[tuple[int, ...], ...]
    output_len: int

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


def random_workload(
    *, num_prompts: int, input_len: int, output_len: int, vocab_size: int, seed: int, min_input_len: int | None = None
) -> Workload:
    """Prompts of `input_len` tokens, or of lengths spread evenly from `min_input_len` to `input_len`."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(min_input_len or input_len, input_len, num_prompts).round().astype(int)
    prompts = tuple(tuple(int(token) for token in rng.integers(0, vocab_size, length)) for length in lengths)
    return Workload(prompts, output_len)
