"""From what a user asks to what the engine core takes: tokens, defaults, checks against the model."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quire.engine.messages import EngineRequest
from quire.errors import RequestError
from quire.field_ranges import check_integer, shown
from quire.sampling_params import SamplingParams

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer

_PROMPT_KEYS = ("prompt", "prompt_token_ids")

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, {"prompt": text} or {"prompt_token_ids": ids}; the mappings may hold `cache_salt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a front end must know of the loaded model.

    Attributes:
        vocab_size: rows of the embedding. max_model_len: tokens of the longest sequence.
        max_num_seqs: most sequences of one request. eos_token_ids: the model's; the tokenizer's are added to them.
        max_logprobs: most logprobs a request may ask for. scheduling_policy: "fcfs" or "priority".
    """

    model_path: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    eos_token_ids: tuple[int, ...]
    max_logprobs: int
    scheduling_policy: str


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A checked request: its message to the core, and what the way back needs.

    `request_id` is the user's word for it; the message's is unique in the engine. `prompt` is None where tokens were
    given; `detokenize` says whether text is wanted and possible.
    """

    request_id: str
    message: EngineRequest
    prompt: str | None
    detokenize: bool


FEWEST_CHARS_A_TOKEN = 16
"""A prompt of so many characters for each token that fits is always tokenized, whatever the vocabulary."""


class InputProcessor:
    """Tokenizes and validates. Holds no state between requests."""

    def __init__(self, limits: ModelLimits, tokenizer: Tokenizer | None) -> None:
        self._limits = limits
        self._tokenizer = tokenizer
        eos = set(limits.eos_token_ids) | set(tokenizer.eos_token_ids if tokenizer is not None else ())
        self._eos_token_ids = tuple(sorted(token for token in eos if 0 <= token < limits.vocab_size))

    @property
    def max_prompt_chars(self) -> int:
        """Characters of the longest text that can fit: max_model_len of the longest tokens."""
        longest = 0 if self._tokenizer is None else self._tokenizer.longest_token_chars
        return self._limits.max_model_len * max(longest, FEWEST_CHARS_A_TOKEN)

    def check_length(self, text: str) -> None:
        """Refuses what cannot fit before it is tokenized, which takes seconds for a few megabytes."""
        max_model_len = self._limits.max_model_len
        if len(text) > max_model_len * FEWEST_CHARS_A_TOKEN and len(text) > self.max_prompt_chars:
            raise RequestError(
                f"the prompt has {len(text)} characters",
                param="prompt",
                because=f"{max_model_len} tokens (max_model_len) stand for {self.max_prompt_chars} at most",
                hint="a shorter prompt, or a larger --max-model-len",
            )

    def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        add_special_tokens: bool = True,
    ) -> PreparedRequest:
        """The request as the core takes it.

        Raises: RequestError naming the field, when the prompt or a parameter does not fit the model.
        """
        content, salt = split_prompt(prompt)
        text, token_ids = self._prompt_tokens(content, add_special_tokens)
        self._check_prompt(token_ids)
        self._check_params(params)
        salt = cache_salt if cache_salt is not None else salt
        for name, texts in (
            ("stop", params.stop_strings),
            ("bad_words", params.bad_words or ()),
            ("cache_salt", (salt or "",)),
        ):
            _check_unicode(name, texts)
        priority = check_integer("priority", priority)
        if priority and self._limits.scheduling_policy != "priority":
            raise RequestError(
                f"priority={priority}",
                param="priority",
                because=f"the engine's scheduling policy is {self._limits.scheduling_policy}",
                hint="--scheduling-policy priority when the engine is started",
            )
        room = self._limits.max_model_len - len(token_ids)
        detokenize = params.detokenize and self._tokenizer is not None
        if params.stop_strings and not detokenize:
            raise RequestError(
                "stop strings without a tokenizer",
                because="they are looked for in the text",
                hint="stop_token_ids, or a model with its tokenizer",
                param="stop",
            )
        wanted = room if params.max_tokens is None else min(params.max_tokens, room)
        bounded = replace(
            params,
            max_tokens=wanted,
            min_tokens=min(params.min_tokens, wanted),
            logprobs=self._logprob_count("logprobs", params.logprobs),
            prompt_logprobs=self._logprob_count("prompt_logprobs", params.prompt_logprobs),
        )
        message = EngineRequest(
            request_id=request_id,
            prompt_token_ids=tuple(token_ids),
            params=bounded,
            eos_token_ids=self._eos_token_ids,
            bad_words_token_ids=self._bad_words(params),
            priority=priority,
            arrival_time_s=time.monotonic(),
            cache_salt=salt,
        )
        return PreparedRequest(request_id, message, text, detokenize)

    def _prompt_tokens(self, prompt: str | Sequence[int], add_special_tokens: bool) -> tuple[str | None, list[int]]:
        """(text or None, token ids)."""
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise RequestError(
                    "a text prompt without a tokenizer",
                    because="skip_tokenizer_init is set",
                    hint='{"prompt_token_ids": [...]}',
                    param="prompt",
                )
            self.check_length(prompt)
            return prompt, self._tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        return None, list(prompt)

    def _check_prompt(self, token_ids: Sequence[int]) -> None:
        limits = self._limits
        if not token_ids:
            raise RequestError(
                "the prompt is empty",
                because="the model needs at least one token to continue",
                hint="a text that is not empty",
                param="prompt",
            )
        if len(token_ids) >= limits.max_model_len:
            raise RequestError(
                f"the prompt has {len(token_ids)} tokens",
                param="prompt",
                because=f"prompt and answer together may have {limits.max_model_len} (max_model_len)",
                hint=f"a prompt of at most {limits.max_model_len - 1} tokens, or a larger --max-model-len",
            )
        self._check_token_ids("prompt", token_ids)

    def _check_params(self, params: SamplingParams) -> None:
        if params.n > self._limits.max_num_seqs:
            raise RequestError(
                f"n={params.n}",
                because=f"this engine runs at most {self._limits.max_num_seqs} sequences at a time",
                hint=f"n of {self._limits.max_num_seqs} or less, or a larger --max-num-seqs",
                param="n",
            )
        for name in ("stop_token_ids", "allowed_token_ids"):
            self._check_token_ids(name, getattr(params, name) or ())
        self._check_token_ids("logit_bias", list(params.logit_bias or ()))

    def _check_token_ids(self, param: str, token_ids: Sequence[int]) -> None:
        if not token_ids:
            return
        low, high = min(token_ids), max(token_ids)
        if low < 0 or high >= self._limits.vocab_size:
            raise RequestError(
                f"{param} has token id {shown(low if low < 0 else high)}",
                because=f"the model's vocabulary has ids 0 to {self._limits.vocab_size - 1}",
                hint="ids of this model's tokenizer",
                param=param,
            )

    def _logprob_count(self, param: str, asked: int | None) -> int | None:
        if asked is None:
            return None
        count = self._limits.vocab_size if asked == -1 else asked
        if count > self._limits.max_logprobs:
            raise RequestError(
                f"{param}={asked}",
                because=f"this engine allows at most {self._limits.max_logprobs}",
                hint=f"--max-logprobs {count} when the engine is started",
                param=param,
            )
        return count

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Token sequences of the bad words, alone and after a space."""
        if not params.bad_words:
            return ()
        if self._tokenizer is None:
            raise RequestError(
                "bad_words without a tokenizer",
                because="they are given as text",
                hint="logit_bias of -100 on the token ids",
                param="bad_words",
            )
        sequences: list[tuple[int, ...]] = []
        for word in params.bad_words:
            for text in dict.fromkeys((word, f" {word.lstrip()}")):
                token_ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
                if token_ids and token_ids not in sequences:
                    sequences.append(token_ids)
        return tuple(sequences)


def split_prompt(prompt: Prompt) -> tuple[str | list[int], str | None]:
    """(text or token ids, cache salt or None). Raises RequestError for what is neither."""
    if isinstance(prompt, Mapping):
        if set(prompt) - {*_PROMPT_KEYS, "cache_salt"} or sum(key in prompt for key in _PROMPT_KEYS) != 1:
            raise RequestError(
                f"a prompt with the keys {', '.join(map(str, prompt)) or 'none'}",
                because="it has exactly one of prompt and prompt_token_ids, and perhaps cache_salt",
                hint='{"prompt_token_ids": [1, 2, 3]}',
                param="prompt",
            )
        salt = prompt.get("cache_salt")
        if salt is not None and (not isinstance(salt, str) or not salt):
            raise RequestError(f"cache_salt={salt!r}", because="it is a text that is not empty", param="cache_salt")
        return split_prompt(next(prompt[key] for key in _PROMPT_KEYS if key in prompt))[0], salt
    if isinstance(prompt, str):
        return prompt, None
    try:
        return [operator.index(token) for token in prompt], None
    except TypeError:
        raise RequestError(
            "the prompt is neither a text nor token ids",
            because=f"it is {shown(prompt)}",
            hint='a text, or {"prompt_token_ids": [1, 2, 3]}',
            param="prompt",
        ) from None


def _check_unicode(param: str, texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{param}={shown(text)} is not valid Unicode",
                because="it holds half of a UTF-16 surrogate pair",
                hint="text that can be encoded as UTF-8",
                param=param,
            ) from error
