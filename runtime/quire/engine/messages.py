"""What crosses the border between a front end and the engine core, in one process or between two.

Plain frozen dataclasses and named tuples, so that the offline engine needs no serializer; `msgspec` encodes and
decodes them as they are (`msgspec.msgpack.Decoder(EngineRequest)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from quire import errors
from quire.errors import QuireError, RequestError
from quire.observability.stats import EngineStats
from quire.outputs import FinishReason
from quire.sampling_params import SamplingParams

__all__ = ["EngineRequest", "EngineStats", "Failure", "FinishReason", "SequenceOutput", "TokenLogprobs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A QuireError on its way to a front end.

    `kind` is the name of its class, `param` the field that a RequestError names.
    """

    kind: str
    what: str
    because: str = ""
    hint: str = ""
    param: str | None = None

    @classmethod
    def of(cls, error: QuireError) -> Failure:
        """The error as a message."""
        param = error.param if isinstance(error, RequestError) else None
        return cls(kind=type(error).__name__, what=error.what, because=error.because, hint=error.hint, param=param)

    def error(self) -> QuireError:
        """The error again."""
        kind = getattr(errors, self.kind, QuireError)
        if kind is RequestError:
            return RequestError(self.what, because=self.because, hint=self.hint, param=self.param)
        return kind(self.what, because=self.because, hint=self.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request as the core takes it. Stop strings and text are the front end's business.

    Attributes:
        request_id: unique among the unfinished ones.
        prompt_token_ids: at least one token.
        params: how to draw; `stop` and other fields about text are not looked at.
        eos_token_ids: the model's end-of-text tokens; `params.ignore_eos` turns them off.
        bad_words_token_ids: each bad word as tokens; the token that would complete one is not drawn.
        priority: lower runs first, under the priority policy only.
        arrival_time_s: any monotonic clock; earlier runs first among equal priorities.
        cache_salt: prefixes are shared only among requests of one salt.
        resume_token_ids: per sequence, tokens that were generated and delivered before (by an engine that was
            lost); generation goes on after them and they are not sent again. None for a sequence that is
            finished. Empty = a new request, else `params.n` entries.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    priority: int = 0
    arrival_time_s: float = 0.0
    cache_salt: str | None = None
    resume_token_ids: tuple[tuple[int, ...] | None, ...] = ()


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one place: the drawn (or actual) token first, then the most likely ones in order.

    Attributes:
        token_ids, logprobs: of equal length, 1 + the number asked for; the first token may occur again.
        rank: 1-based rank of the first token in the vocabulary.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class SequenceOutput(NamedTuple):
    """What one step brought to one sequence.

    Attributes:
        index: which of the request's `n`.
        new_token_ids: this step's tokens; a stop token is among them.
        finish_reason: "stop", "length", "abort", "error", or None while it runs.
        stop_reason: the id when one of `stop_token_ids` ended it; None for end-of-text.
        logprobs: one per new token, when asked for.
        prompt_logprobs: one per prompt token (None for the first), once, with the first output of sequence 0 or
            of the sequence that took its place.
        num_cached_tokens: prompt tokens found in the prefix cache when the request first ran.
        error: what went wrong, when finish_reason is "error".
    """

    request_id: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which means nothing here
    new_token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    error: Failure | None = None
