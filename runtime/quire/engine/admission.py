"""From a message to a request: everything is checked here, before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quire.engine.messages import EngineRequest
from quire.engine.sampling_rows import has_penalties
from quire.engine.seeds import derive_seed
from quire.errors import RequestError
from quire.kv.block_hash import root_hash
from quire.scheduler.sequence import Request, Sequence, Status

_LISTED = 5  # token ids shown in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What a request is checked against.

    Attributes:
        max_logprobs: most logprobs a request may ask for; None = up to the vocabulary.
        seed: the engine's, from which seeds of requests without one are derived.
    """

    vocab_size: int
    max_model_len: int
    max_logprobs: int | None
    seed: int


def make_request(message: EngineRequest, number: int, limits: RequestLimits) -> Request:
    """The request with its `n` sequences. Raises RequestError that names the wrong field."""
    params = message.params
    _check(message, limits)
    eos_token_ids = frozenset(() if params.ignore_eos else message.eos_token_ids)
    room = limits.max_model_len - len(message.prompt_token_ids)
    request = Request(
        request_id=message.request_id,
        prompt=np.array(message.prompt_token_ids, np.int32),
        params=params,
        max_output_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
        seed=derive_seed(limits.seed, number) if params.seed is None else params.seed % 2**64,
        number=number,
        hash_root=root_hash(message.cache_salt),
        eos_token_ids=eos_token_ids,
        stop_token_ids=eos_token_ids | frozenset(params.stop_token_ids or ()),
        bad_words=tuple(tuple(word) for word in message.bad_words_token_ids if word),
        priority=message.priority,
        arrival_time_s=message.arrival_time_s,
        needs_host_tokens=has_penalties(params) or any(len(word) > 1 for word in message.bad_words_token_ids),
        needs_prompt_logits=params.prompt_logprobs is not None,
    )
    _make_sequences(request, message)
    return request


def _make_sequences(request: Request, message: EngineRequest) -> None:
    """New: the first sequence computes the prompt for all. Resumed: each goes on by itself."""
    if message.resume_token_ids:
        for index, token_ids in enumerate(message.resume_token_ids):
            if token_ids is not None:
                request.sequences.append(Sequence(request, index, output_token_ids=list(token_ids)))
        return
    request.sequences.extend(Sequence(request, index) for index in range(request.params.n))
    for sequence in request.sequences[1:]:
        sequence.status = Status.UNFORKED
        request.unforked.append(sequence)


def _check(message: EngineRequest, limits: RequestLimits) -> None:
    num_prompt_tokens = len(message.prompt_token_ids)
    if not num_prompt_tokens:
        raise RequestError(
            "the prompt has no tokens",
            because="there is nothing to continue",
            hint="at least one token",
            param="prompt",
        )
    if num_prompt_tokens >= limits.max_model_len:
        raise RequestError(
            f"the prompt has {num_prompt_tokens} tokens",
            because=f"max_model_len={limits.max_model_len} leaves no room for an answer",
            hint=f"a prompt of at most {limits.max_model_len - 1} tokens",
            param="prompt",
        )
    params = message.params
    _check_token_ids("prompt", message.prompt_token_ids, limits)
    _check_token_ids("allowed_token_ids", params.allowed_token_ids or (), limits)
    _check_token_ids("logit_bias", params.logit_bias or (), limits)
    _check_token_ids("stop_token_ids", params.stop_token_ids or (), limits)
    _check_token_ids("bad_words", [token for word in message.bad_words_token_ids for token in word], limits)
    for name in ("logprobs", "prompt_logprobs"):
        asked = limits.vocab_size if getattr(params, name) == -1 else getattr(params, name) or 0
        most = limits.vocab_size if limits.max_logprobs is None else min(limits.max_logprobs, limits.vocab_size)
        if asked > most:
            raise RequestError(
                f"{name}={asked}",
                because=f"at most {most} are given",
                hint=f"{name} of {most} or less, or a larger max_logprobs",
                param=name,
            )
    _check_resumption(message, limits)


def _check_resumption(message: EngineRequest, limits: RequestLimits) -> None:
    resumed = message.resume_token_ids
    if not resumed:
        return
    if len(resumed) != message.params.n or all(token_ids is None for token_ids in resumed):
        raise RequestError(
            f"resume_token_ids has {len(resumed)} entries",
            because=f"n={message.params.n}, and at least one sequence must be unfinished",
            hint="one entry per sequence, None for finished ones",
            param="resume_token_ids",
        )
    most = limits.max_model_len - len(message.prompt_token_ids)
    most = most if message.params.max_tokens is None else min(most, message.params.max_tokens)
    longest = max(len(token_ids or ()) for token_ids in resumed)
    if longest >= most:
        raise RequestError(
            f"a sequence is resumed after {longest} tokens",
            because=f"it may have {most} at most",
            hint="None for sequences that are finished",
            param="resume_token_ids",
        )
    _check_token_ids("resume_token_ids", [token for ids in resumed for token in ids or ()], limits)


def _check_token_ids(param: str, token_ids: Iterable[int], limits: RequestLimits) -> None:
    array = np.fromiter(token_ids, np.int64)
    wrong = array[(array < 0) | (array >= limits.vocab_size)]
    if len(wrong):
        raise RequestError(
            f"{param} has token ids {wrong[:_LISTED].tolist()}",
            because=f"the vocabulary has ids 0 to {limits.vocab_size - 1}",
            hint="the tokenizer that belongs to the model",
            param=param,
        )
