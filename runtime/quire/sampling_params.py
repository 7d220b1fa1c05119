"""How one request wants its tokens drawn and when it stops: `SamplingParams`, under the names vLLM users know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from quire.errors import RequestError
from quire.field_ranges import (
    GREEDY_BELOW,
    check_bias,
    check_integer,
    check_number,
    check_optional_integer,
    check_strings,
    check_token_ids,
    refused,
)
from quire.foreign_fields import first_refused, refusal_text
from quire.vllm_sampling_fields import VLLM_SAMPLING_FIELDS


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw the tokens of one request and when to stop.

    The order in which the fields act is the sampler's (`quire.sampling.sampler`): allowed tokens, banned tokens and
    bias, penalties, temperature, min_p, top_k, top_p, draw. Values are checked and normalised here (sequences become
    tuples, absent lists of stops and bad words empty ones, `top_k=-1` becomes 0), so that a SamplingParams that
    exists is valid. What depends on the model, such as token ids against the vocabulary, is checked by the engine.
    Positions are those of vLLM 0.33's. Fields of vLLM's that are not listed here are in `vllm_sampling_fields`: taken
    where they change no answer, refused by name where they would, None afterwards.

    Attributes:
        n: sequences to generate from the prompt, 1..16384.
        temperature: factor 1/temperature on the logits, at most 1e6; 0 (or below 1e-5) = greedy.
        top_p: the smallest set of most likely tokens with at least this probability, in (0, 1]; 1 = off.
        top_k: the most likely tokens only; 0 or -1 = off.
        min_p: tokens at least this likely relative to the most likely one, in [0, 1]; 0 = off.
        presence_penalty: in [-2, 2], subtracted from the logit of every token that the output already has.
        frequency_penalty: in [-2, 2], subtracted once per occurrence in the output.
        repetition_penalty: 1e-6..1e6; divides positive and multiplies negative logits of tokens in prompt or output.
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: Any = field(default=None, repr=False)
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: Any = field(default=None, repr=False)
    prompt_logprob_start: Any = field(default=None, repr=False)
    logprob_token_ids: Any = field(default=None, repr=False)
    flat_logprobs: Any = field(default=None, repr=False)
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: Any = field(default=None, repr=False)
    include_stop_str_in_output: bool = False
    output_kind: Any = field(default=None, repr=False)
    stream_interval: Any = field(default=None, repr=False)
    skip_clone: Any = field(default=None, repr=False)
    output_text_buffer_length: Any = field(default=None, repr=False)
    structured_outputs: Any = field(default=None, repr=False)
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    extra_args: Any = field(default=None, repr=False)
    bad_words: Sequence[str] | None = None
    skip_reading_prefix_cache: Any = field(default=None, repr=False)
    thinking_token_budget: Any = field(default=None, repr=False)
    repetition_detection: Any = field(default=None, repr=False)
    routed_experts_prompt_start: Any = field(default=None, repr=False)
    trace_decode_token_ids: Any = field(default=None, repr=False)
    best_of: Any = field(default=None, repr=False, kw_only=True)
    truncate_prompt_tokens: Any = field(default=None, repr=False, kw_only=True)
    logits_processors: Any = field(default=None, repr=False, kw_only=True)
    guided_decoding: Any = field(default=None, repr=False, kw_only=True)
    use_beam_search: Any = field(default=None, repr=False, kw_only=True)
    length_penalty: Any = field(default=None, repr=False, kw_only=True)
    early_stopping: Any = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        self._take_vllm_fields()
        put = self._put
        temperature = check_number("temperature", self.temperature)
        put("temperature", 0.0 if temperature < GREEDY_BELOW else temperature)
        for name in ("top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"):
            put(name, check_number(name, getattr(self, name)))
        for name in ("n", "min_tokens"):
            put(name, check_integer(name, getattr(self, name)))
        for name in ("max_tokens", "logprobs", "prompt_logprobs"):
            put(name, check_optional_integer(name, getattr(self, name)))
        put("top_k", max(check_integer("top_k", self.top_k), 0))
        seed = check_optional_integer("seed", self.seed)
        put("seed", None if seed == -1 else seed)
        put("stop", check_strings("stop", (self.stop,) if isinstance(self.stop, str) else self.stop))
        put("bad_words", check_strings("bad_words", self.bad_words))
        put("stop_token_ids", check_token_ids("stop_token_ids", self.stop_token_ids) or ())
        put("allowed_token_ids", check_token_ids("allowed_token_ids", self.allowed_token_ids))
        put("logit_bias", check_bias(self.logit_bias))
        for name in ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise refused(name, getattr(self, name), "true or false")
        self._check_together()

    @classmethod
    def from_optional(cls, *args: Any, **values: Any) -> SamplingParams:
        """As the constructor, with None taken as left out (of max_tokens too: up to the model's length).

        Positions are the constructor's. Raises: RequestError for a value, or a name that it does not have.
        """
        names = [item.name for item in fields(cls)]
        given = {**dict(zip(names, args, strict=False)), **values}
        unknown = next((name for name in given if name not in names), None)
        if unknown is not None:
            raise RequestError(
                f"{unknown}: unknown field",
                because="SamplingParams has no such field",
                hint="a field of SamplingParams",
                param=unknown,
            )
        return cls(**{name: value for name, value in given.items() if value is not None or name == "max_tokens"})

    def clone(self) -> SamplingParams:
        """An equal one. Params are frozen, so that a change is `dataclasses.replace(params, ...)`."""
        return replace(self)

    def _take_vllm_fields(self) -> None:
        """Refuses what vLLM would do with these and Quire does not; all are None afterwards."""
        values = {name: getattr(self, name) for name in VLLM_SAMPLING_FIELDS}
        if values["best_of"] == self.n:
            values["best_of"] = None
        name = first_refused(VLLM_SAMPLING_FIELDS, values, "SamplingParams")
        if name is not None:
            what, because, hint = refusal_text(name, values[name], VLLM_SAMPLING_FIELDS[name])
            raise RequestError(what, because=because, hint=hint, param=name)
        for name in VLLM_SAMPLING_FIELDS:
            self._put(name, None)

    def _put(self, name: str, value: Any) -> None:
        """Writes a normalised value into the frozen object while it is being made."""
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise refused("min_tokens", self.min_tokens, f"a whole number from 0 to max_tokens={self.max_tokens}")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise refused("allowed_token_ids", [], "at least one token id, or none at all")
        if self.stop and not self.detokenize:
            raise RequestError(
                "stop strings with detokenize=False",
                because="stop strings are looked for in the text",
                hint="stop_token_ids, or detokenize=True",
                param="stop",
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple; empty where none is given."""
        return tuple(self.stop or ())
