"""How one request wants its tokens drawn and when it stops: `SamplingParams`, under the names vLLM users know."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import RequestError

MAX_N = 16384
"""Most sequences of one request."""

GREEDY_BELOW = 1e-5
"""Temperatures under this are taken as 0 (greedy): no float32 draw could tell them apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How to draw the tokens of one request and when to stop.

    The order in which the fields act is the sampler's (`quire.sampling.sampler`): allowed tokens, banned tokens and
    bias, penalties, temperature, min_p, top_k, top_p, draw. Values are checked and normalised here (sequences become
    tuples, absent lists of stops and bad words empty ones, `top_k=-1` becomes 0), so that a SamplingParams that
    exists is valid. What depends on the model, such as token ids against the vocabulary, is checked by the engine.

    Attributes:
        n: sequences to generate from the prompt, 1..16384.
        temperature: factor 1/temperature on the logits; 0 (or below 1e-5) = greedy.
        top_p: the smallest set of most likely tokens with at least this probability, in (0, 1]; 1 = off.
        top_k: the most likely tokens only; 0 or -1 = off.
        min_p: tokens at least this likely relative to the most likely one, in [0, 1]; 0 = off.
        presence_penalty: in [-2, 2], subtracted from the logit of every token that the output already has.
        frequency_penalty: in [-2, 2], subtracted once per occurrence in the output.
        repetition_penalty: > 0; divides positive and multiplies negative logits of tokens in prompt or output.
        seed: None (or -1) = the engine gives one; else -2**63..2**64-1, used modulo 2**64. Draws depend on seed,
            sequence index and position only, never on what else is running.
        stop: string or strings that end the text; cut from it unless include_stop_str_in_output.
        stop_token_ids: tokens that end the sequence, beside the model's end-of-text tokens.
        bad_words: strings never generated: the token that would complete one is not drawn.
        include_stop_str_in_output: keeps the stop string at the end of the text.
        ignore_eos: end-of-text tokens do not end the sequence.
        max_tokens: most tokens to generate, >= 1; None = up to the model's length.
        min_tokens: before so many tokens neither end-of-text nor stop_token_ids are drawn, nor stop strings obeyed.
        logprobs: so many most likely tokens with each drawn token; 0 = the drawn token's only; -1 = the whole
            vocabulary (the engine replaces it by the vocabulary's size); None = none.
        prompt_logprobs: the same for the tokens of the prompt.
        detokenize: produce text; False leaves token ids only and cannot go with `stop`.
        skip_special_tokens: leave special tokens out of the text.
        logit_bias: token id -> number in [-100, 100] added to its logit.
        allowed_token_ids: draw from these only; not empty.
    Raises: RequestError that names the field as `param` and says the allowed range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        put = self._put
        put("n", _integer("n", self.n, 1, MAX_N))
        temperature = _number("temperature", self.temperature, low=0.0)
        put("temperature", 0.0 if temperature < GREEDY_BELOW else temperature)
        put("top_p", _number("top_p", self.top_p, above=0.0, high=1.0))
        put("top_k", max(_integer("top_k", self.top_k, -1), 0))
        put("min_p", _number("min_p", self.min_p, low=0.0, high=1.0))
        put("presence_penalty", _number("presence_penalty", self.presence_penalty, low=-2.0, high=2.0))
        put("frequency_penalty", _number("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0))
        put("repetition_penalty", _number("repetition_penalty", self.repetition_penalty, above=0.0))
        seed = _optional_integer("seed", self.seed, -(2**63), 2**64 - 1)
        put("seed", None if seed == -1 else seed)
        put("max_tokens", _optional_integer("max_tokens", self.max_tokens, 1))
        put("min_tokens", _integer("min_tokens", self.min_tokens, 0))
        put("logprobs", _optional_integer("logprobs", self.logprobs, -1))
        put("prompt_logprobs", _optional_integer("prompt_logprobs", self.prompt_logprobs, -1))
        put("stop", _strings("stop", (self.stop,) if isinstance(self.stop, str) else self.stop))
        put("bad_words", _strings("bad_words", self.bad_words))
        put("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids) or ())
        put("allowed_token_ids", _token_ids("allowed_token_ids", self.allowed_token_ids))
        put("logit_bias", _bias(self.logit_bias))
        for name in ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "true or false")
        self._check_together()

    def _put(self, name: str, value: Any) -> None:
        """Writes a normalised value into the frozen object while it is being made."""
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _refused("min_tokens", self.min_tokens, f"a whole number from 0 to max_tokens={self.max_tokens}")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise _refused("allowed_token_ids", [], "at least one token id, or none at all")
        if self.stop and not self.detokenize:
            raise RequestError("stop strings with detokenize=False", because="stop strings are looked for in the text",
                               try_="stop_token_ids, or detokenize=True", param="stop")  # fmt: skip

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple; empty where none is given."""
        return tuple(self.stop or ())


def _refused(param: str, value: object, allowed: str) -> RequestError:
    return RequestError(f"{param}={value!r} is not allowed", because=f"{param} must be {allowed}",
                        try_=f"a value that is {allowed}", param=param)  # fmt: skip


def _integer(param: str, value: object, low: int, high: int | None = None) -> int:
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    if isinstance(value, bool):
        raise _refused(param, value, allowed)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _refused(param, value, allowed) from None
    if number < low or (high is not None and number > high):
        raise _refused(param, value, allowed)
    return number


def _optional_integer(param: str, value: object, low: int, high: int | None = None) -> int | None:
    return None if value is None else _integer(param, value, low, high)


def _number(
    param: str, value: Any, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> float:
    """A finite float with low <= value, above < value and value <= high, where given."""
    bounds = [f"at least {low:g}"] if low is not None else []
    bounds += [f"above {above:g}"] if above is not None else []
    bounds += [f"at most {high:g}"] if high is not None else []
    allowed = "a finite number " + " and ".join(bounds)
    if isinstance(value, (bool, str, bytes)):
        raise _refused(param, value, allowed)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _refused(param, value, allowed) from None
    too_low = (low is not None and number < low) or (above is not None and number <= above)
    if not math.isfinite(number) or too_low or (high is not None and number > high):
        raise _refused(param, value, allowed)
    return number


def _strings(param: str, values: object) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise _refused(param, values, "a list of strings")
    if not all(isinstance(value, str) and value for value in values):
        raise _refused(param, values, "a list of strings, none of them empty")
    return tuple(dict.fromkeys(values))


def _token_ids(param: str, values: object) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not isinstance(values, (Sequence, set, frozenset)) or isinstance(values, (str, bytes)):
        raise _refused(param, values, "a list of token ids")
    return tuple(dict.fromkeys(_integer(param, value, 0, 2**31 - 1) for value in values))


def _bias(values: object) -> dict[int, float] | None:
    """Token id -> bias. Keys may be decimal strings, as JSON objects have them."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise _refused("logit_bias", values, "a mapping from token id to a number in [-100, 100]")
    bias: dict[int, float] = {}
    for key, value in values.items():
        token_id = int(key) if isinstance(key, str) and key.isdecimal() else key
        bias[_integer("logit_bias", token_id, 0, 2**31 - 1)] = _number("logit_bias", value, low=-100.0, high=100.0)
    return bias or None
