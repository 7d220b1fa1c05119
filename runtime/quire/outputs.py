"""What a user gets back: requests, their completions, log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from quire.errors import QuireError

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural log-probability of one token under the raw logits, its 1-based rank, and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = Mapping[int, Logprob]
"""token id -> Logprob for one position: the actual token and the most likely ones."""


@dataclass(slots=True)
class CompletionOutput:
    """One generated sequence of a request.

    Attributes:
        index: which of the request's `n`.
        text: generated text so far ("" without a tokenizer). token_ids: generated tokens so far, stop token included.
        cumulative_logprob: sum over the generated tokens; None when logprobs were not asked for.
        logprobs: per generated token, when asked for.
        text_offsets: with logprobs, per generated token: where it begins in `text`, counted as if no stop string were
            cut off. A token inside a character has that character's place; one that is not shown, the next place.
        finish_reason: "stop", "length", "abort", "error", or None while running.
        stop_reason: the stop string or stop token id that ended it; None for the end-of-text token.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    text_offsets: list[int] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Times of one request in seconds on the monotonic clock, as the front end saw them."""

    arrival_s: float
    first_token_s: float | None = None
    finished_s: float | None = None


@dataclass(slots=True)
class RequestOutput:
    """A request and all of its sequences.

    Attributes:
        prompt: text, or None when tokens were given. prompt_token_ids: what the model saw.
        prompt_logprobs: per prompt token when asked for; None for the first, which nothing predicts.
        outputs: `n` completions in order. finished: all of them are.
        num_cached_tokens: prompt tokens found in the prefix cache.
        error: why the request ended with finish_reason "error"; None for every other one.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    error: QuireError | None = None
