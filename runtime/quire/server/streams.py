"""Server-sent events, and what of an output was not sent yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from quire.errors import QuireError
from quire.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from quire.server.errors import error_of

DONE = "data: [DONE]\n\n"


def event(payload: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def guarded(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events; an error in mid-stream becomes a last event with its body, since the status is already sent."""
    try:
        async for item in events:
            yield item
    except QuireError as error:
        yield event(error_of(error)[1])
    yield DONE


@dataclass(slots=True)
class Delta:
    """What is new in one completion since the last look."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None


class DeltaTracker:
    """Remembers how much of each completion was sent."""

    def __init__(self) -> None:
        self._chars: dict[int, int] = {}
        self._tokens: dict[int, int] = {}

    def take(self, completion: CompletionOutput) -> Delta | None:
        """The unsent part, or None when there is nothing new and the completion is not finished."""
        index = completion.index
        chars, tokens = self._chars.get(index, 0), self._tokens.get(index, 0)
        if tokens < 0:
            return None
        text, token_ids = completion.text[chars:], completion.token_ids[tokens:]
        if not text and not token_ids and not completion.finished():
            return None
        self._chars[index] = len(completion.text)
        self._tokens[index] = -1 if completion.finished() else len(completion.token_ids)
        logprobs = completion.logprobs[tokens : tokens + len(token_ids)] if completion.logprobs is not None else None
        return Delta(text, token_ids, logprobs)


def usage_of(outputs: list[RequestOutput]) -> dict[str, Any]:
    """Token counts in OpenAI's shape, cached prompt tokens included."""
    prompt = sum(len(output.prompt_token_ids) for output in outputs)
    completion = sum(len(item.token_ids) for output in outputs for item in output.outputs)
    cached = sum(output.num_cached_tokens for output in outputs)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached}}
