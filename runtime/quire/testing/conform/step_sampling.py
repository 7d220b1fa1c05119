"""Sampling batches that use chosen features, to compare a device's draws with the core's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quire.sampling.batch import SamplingBatch, TokenLists


def sampling_rows(
    rows: np.ndarray, positions: Sequence[int], features: Sequence[str], seed: int, vocab_size: int
) -> SamplingBatch:
    """One draw per row with every feature of `features` (names of `quire.sampling.batch.FEATURES`) on."""
    count = len(rows)
    rng = np.random.default_rng(seed)

    def full(value: float, dtype: Any = np.float32) -> np.ndarray:
        return np.full(count, value, dtype)

    def some_tokens(number: int) -> list[list[int]]:
        return [[int(token) for token in rng.integers(0, vocab_size, number)] for _ in range(count)]

    fields: dict[str, Any] = {}
    if "top_k" in features:
        fields["top_k"] = full(7, np.int32)
    if "top_p" in features:
        fields["top_p"] = full(0.8)
    if "min_p" in features:
        fields["min_p"] = full(0.02)
    if "penalties" in features:
        fields.update(
            repetition_penalty=full(1.3),
            presence_penalty=full(0.2),
            frequency_penalty=full(0.1),
            prompt_tokens=TokenLists.of(some_tokens(6)),
            output_tokens=TokenLists.of(some_tokens(4)),
        )
    if "banned" in features:
        fields["banned"] = TokenLists.of(some_tokens(40))
    if "bias" in features:
        fields["bias"] = TokenLists.of(some_tokens(5), [[2.0, -1.0, 3.0, 0.5, 1.5]] * count)
    if "logprobs" in features:
        fields["num_logprobs"] = full(3, np.int32)
    return SamplingBatch(
        rows=rows.astype(np.int32),
        temperature=full(0.9 if "temperature" in features else 0.0),
        seed=np.arange(count, dtype=np.uint64) + np.uint64(1000 * seed),
        sequence_index=np.arange(count, dtype=np.uint32) % np.uint32(2),
        position=np.array(positions, np.int32),
        **fields,
    )
