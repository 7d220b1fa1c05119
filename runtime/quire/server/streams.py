"""Server-sent events, and what of an output was not sent yet."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse

from quire.errors import QuireError
from quire.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from quire.server.errors import error_of

logger = logging.getLogger("quire")

DONE = "data: [DONE]\n\n"


def event(payload: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(',', ':'))}\n\n"


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """The response that sends events, and [DONE] after them."""
    return StreamingResponse(_guarded(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _guarded(events: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """The events; an error in mid-stream becomes a last event with its body, since the status is already sent."""
    try:
        async for item in events:
            yield item.encode()
    except Exception as error:
        if not isinstance(error, QuireError):
            logger.exception("a stream failed")
        yield event(error_of(error)[1]).encode()
    yield DONE.encode()


@dataclass(slots=True)
class Delta:
    """What is new in one completion since the last look. is_first: nothing was sent before."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    text_offsets: list[int]
    is_first: bool


class DeltaTracker:
    """Remembers how much of each completion was sent."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[int, int]] = {}  # index -> characters, tokens
        self._finished: set[int] = set()

    def take(self, completion: CompletionOutput) -> Delta | None:
        """The unsent part, or None when there is nothing new and the completion is not finished."""
        index = completion.index
        if index in self._finished:
            return None
        chars, tokens = self._sent.get(index, (0, 0))
        text, token_ids = completion.text[chars:], completion.token_ids[tokens:]
        if not text and not token_ids and not completion.finished():
            return None
        delta = Delta(text, token_ids, None, [], is_first=index not in self._sent)
        if completion.logprobs is not None:
            delta.logprobs = completion.logprobs[tokens:]
            delta.text_offsets = (completion.text_offsets or [])[tokens:]
        self._sent[index] = (len(completion.text), len(completion.token_ids))
        if completion.finished():
            self._finished.add(index)
        return delta


def usage_of(outputs: list[RequestOutput]) -> dict[str, Any]:
    """Token counts in OpenAI's shape, cached prompt tokens included."""
    prompt = sum(len(output.prompt_token_ids) for output in outputs)
    completion = sum(len(item.token_ids) for output in outputs for item in output.outputs)
    cached = sum(output.num_cached_tokens for output in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def usage_field(outputs: list[RequestOutput], *, include: bool, continuous: bool) -> dict[str, Any]:
    """The `usage` of a chunk before the last: absent, null, or the counts so far."""
    if continuous:
        return {"usage": usage_of(outputs)}
    return {"usage": None} if include else {}
