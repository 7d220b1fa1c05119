"""What to sample in one step, as flat arrays: the form in which sampling crosses the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]

NO_TOKEN = -1
"""The token of a row whose every token is masked. The engine ends that request with an error; other rows go on."""

NOT_FINITE = -2
"""The token of a row whose logits hold NaN or +inf, which must not be sampled from. Its request ends, others go on."""


@dataclass(frozen=True, slots=True)
class TokenLists:
    """Ragged lists of token ids, one per sampled row: row r owns `tokens[offsets[r]:offsets[r+1]]`.

    Attributes:
        offsets: int32 [R+1].
        tokens: int32 [N].
        values: float32 [N], or None where only ids matter.
    """

    offsets: I32
    tokens: I32
    values: F32 | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], values: Sequence[Sequence[float]] | None = None) -> TokenLists:
        """One list of ids (and of values) per sampled row."""
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        tokens = np.fromiter((token for row in rows for token in row), np.int32, int(offsets[-1]))
        if values is None:
            return cls(offsets, tokens)
        return cls(offsets, tokens, np.fromiter((v for row in values for v in row), np.float32, int(offsets[-1])))

    def row_values(self, index: int) -> F32:
        """Values of sampled row `index`, float32; the lists must have values."""
        assert self.values is not None, "these lists carry ids only"
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def row(self, index: int) -> I32:
        """Ids of sampled row `index`, int32."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Sampling inputs of one step. R rows are sampled, P prompt rows want logprobs, L logits rows exist.

    Optional arrays are None when no row uses the feature, so that a plain greedy step carries almost nothing.

    Attributes:
        rows: int32 [R], index into the step's logits rows.
        temperature: float32 [R]; 0 = greedy.
        seed: uint64 [R]; sequence_index: uint32 [R] (which of n); position: int32 [R], the 0-based index in the
            sequence (prompt + output) that the drawn token will have. These three and the token id key the
            random number, so a draw depends on nothing else.
        top_k: int32 [R], 0 = off. top_p, min_p: float32 [R], 1.0 / 0.0 = off.
        repetition_penalty, presence_penalty, frequency_penalty: float32 [R].
        prompt_tokens, output_tokens: history for the penalties (repetition: both; presence, frequency: output).
        allowed: rows with a non-empty list may only draw from it.
        banned: tokens that must not be drawn (bad words that would complete, stop ids before min_tokens).
        bias: additive logit bias by token.
        mask: uint32 [R, ceil(V/32)] grammar mask, bit v%32 of word v//32 set = token v allowed.
        num_logprobs: int32 [R], -1 = none, else how many top tokens beside the drawn one.
        prompt_rows, prompt_targets, prompt_num_logprobs: int32 [P]: logits row, the actual next prompt token, count.
    """

    rows: I32
    temperature: F32
    seed: U64
    sequence_index: U32
    position: I32
    top_k: I32 | None = None
    top_p: F32 | None = None
    min_p: F32 | None = None
    repetition_penalty: F32 | None = None
    presence_penalty: F32 | None = None
    frequency_penalty: F32 | None = None
    prompt_tokens: TokenLists | None = None
    output_tokens: TokenLists | None = None
    allowed: TokenLists | None = None
    banned: TokenLists | None = None
    bias: TokenLists | None = None
    mask: U32 | None = None
    num_logprobs: I32 | None = None
    prompt_rows: I32 | None = None
    prompt_targets: I32 | None = None
    prompt_num_logprobs: I32 | None = None

    @property
    def num_rows(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class LogprobRows:
    """Log-probabilities of raw logits for some rows; column 0 is the drawn (or actual) token, then the top ones.

    Attributes:
        token_ids: int32 [rows, 1 + max_logprobs], -1 = unused. logprobs: float32, same shape; column 0 is NaN where
            the row's logits hold NaN or +inf.
        ranks: int32 [rows], 1-based rank of column 0 in the vocabulary.
    """

    token_ids: I32
    logprobs: F32
    ranks: I32


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What was drawn.

    Attributes:
        tokens: int32 [R]; NO_TOKEN where allowed tokens, bans and mask together leave nothing to draw, NOT_FINITE where
            the row's logits hold NaN or +inf.
        logprobs: of the R rows, prompt_logprobs: of the P rows, where asked for.
    """

    tokens: I32
    logprobs: LogprobRows | None = None
    prompt_logprobs: LogprobRows | None = None


FEATURES: dict[str, tuple[str, ...]] = {
    "temperature": (),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "penalties": ("repetition_penalty", "presence_penalty", "frequency_penalty"),
    "allowed": ("allowed",),
    "banned": ("banned",),
    "bias": ("bias",),
    "mask": ("mask",),
    "logprobs": ("num_logprobs",),
    "prompt_logprobs": ("prompt_rows",),
}
"""Feature name (as in `Capabilities.device_sampling`) -> the SamplingBatch fields that turn it on."""


def features_used(batch: SamplingBatch) -> frozenset[str]:
    """The features this batch needs; an executor that lacks one samples on the host. Greedy alone is empty."""

    def present(field: str) -> Any:
        return getattr(batch, field) is not None

    used = {name for name, fields in FEATURES.items() if any(present(field) for field in fields)}
    if bool((batch.temperature > 0).any()):
        used.add("temperature")
    return frozenset(used)
