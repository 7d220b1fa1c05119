"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quire.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from quire.server.body import read_body
from quire.server.cache_scope import set_cache_salt
from quire.server.generation import Generation, Serving, new_id, now_s, run_until_disconnect, serving_of
from quire.server.schemas import CompletionRequest
from quire.server.streams import Delta, DeltaTracker, event, event_stream, usage_field, usage_of

router = APIRouter()


@router.post("/v1/completions", response_model=None)
async def create_completion(request: Request) -> Response:
    """Continues one or several prompts."""
    serving = serving_of(request)
    body = await read_body(request, CompletionRequest)
    set_cache_salt(request, body)
    model = serving.check_model(body.model)
    params = body.sampling_params(serving.defaults)
    request_id = f"cmpl-{body.request_id}" if body.request_id is not None else new_id("cmpl")
    with body.own_names():
        generations = [
            await Generation.create(
                serving, f"{request_id}-{i}", prompt, params, body, add_special_tokens=body.add_special_tokens
            )
            for i, prompt in enumerate(body.prompts())
        ]
    head = {"id": request_id, "object": "text_completion", "created": now_s(), "model": model}
    if body.stream:
        return event_stream(_CompletionStream(serving, head, body).events(generations))
    outputs = await run_until_disconnect(request, generations)
    if body.only_scores:
        outputs = [without_answer(output) for output in outputs]
    choices = [
        _choice(serving, body, output, item, index * body.n + place)
        for index, output in enumerate(outputs)
        for place, item in enumerate(_best(output.outputs, body.n))
    ]
    return JSONResponse({**head, "choices": choices, "usage": usage_of(outputs)})


def without_answer(output: RequestOutput) -> RequestOutput:
    """The output of a request that only scores its prompt: the token that the engine had to draw is left out."""
    nothing = [
        CompletionOutput(
            item.index,
            logprobs=None if item.logprobs is None else [],
            finish_reason="length" if item.finished() else None,
        )
        for item in output.outputs
    ]
    return replace(output, outputs=nothing)


def _best(completions: list[CompletionOutput], n: int) -> list[CompletionOutput]:
    """With best_of, the `n` with the highest log-probability per token; else all, in order."""
    if len(completions) == n:
        return completions
    return sorted(completions, key=lambda item: -(item.cumulative_logprob or 0.0) / max(len(item.token_ids), 1))[:n]


def _choice(
    serving: Serving, body: CompletionRequest, output: RequestOutput, item: CompletionOutput, index: int
) -> dict[str, Any]:
    logprobs = None if body.logprobs is None else item.logprobs
    delta = Delta(item.text, item.token_ids, logprobs, item.text_offsets or [], is_first=True)
    choice = _chunk(serving, body, output, item, delta, index)
    if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
        choice["prompt_logprobs"] = serving.logprobs.prompt(output.prompt_logprobs)
    return choice


def _chunk(
    serving: Serving, body: CompletionRequest, output: RequestOutput, item: CompletionOutput, delta: Delta, index: int
) -> dict[str, Any]:
    """A choice with what is new; the first one begins with the prompt where `echo` asks for it."""
    text, token_ids = delta.text, delta.token_ids
    logprobs: Sequence[TokenLogprobs | None] | None = delta.logprobs
    offsets, begin = delta.text_offsets, " "
    shapes = serving.logprobs.naming_ids(body.return_tokens_as_token_ids)
    if body.echo:
        prompt_text = serving.prompt_text(output)
        offsets = [len(prompt_text) + offset for offset in offsets]
        if delta.is_first:
            text, token_ids = prompt_text + text, [*output.prompt_token_ids, *token_ids]
            begin = prompt_text
            if logprobs is not None and output.prompt_logprobs is not None:
                logprobs = [*output.prompt_logprobs, *logprobs]
                offsets = [*shapes.prompt_offsets(output, prompt_text), *offsets]
    choice = {
        "index": index,
        "text": text,
        "logprobs": shapes.completion(token_ids, logprobs, offsets, body.logprobs or 0, begin),
        "finish_reason": item.finish_reason,
        "stop_reason": item.stop_reason,
    }
    if body.return_token_ids:
        choice["token_ids"] = delta.token_ids
        if delta.is_first:
            choice["prompt_token_ids"] = output.prompt_token_ids
    return choice


class _CompletionStream:
    """Chunks of all prompts of one request as they come."""

    def __init__(self, serving: Serving, head: dict[str, Any], body: CompletionRequest) -> None:
        self._serving, self._head, self._body = serving, head, body
        self._last: dict[int, RequestOutput] = {}

    async def events(self, generations: list[Generation]) -> AsyncIterator[str]:
        queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue()
        tasks = [asyncio.create_task(_forward(i, generation, queue)) for i, generation in enumerate(generations)]
        trackers = [DeltaTracker() for _ in generations]
        running = len(tasks)
        try:
            while running:
                index, output = await queue.get()
                if isinstance(output, Exception):
                    raise output
                if output is None:
                    running -= 1
                    continue
                if self._body.only_scores:
                    output = without_answer(output)
                self._last[index] = output
                for item in output.outputs:
                    delta = trackers[index].take(item)
                    if delta is not None:
                        yield self._event(index, output, item, delta)
            if self._body.include_usage:
                yield event({**self._head, "choices": [], "usage": usage_of(list(self._last.values()))})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _event(self, index: int, output: RequestOutput, item: CompletionOutput, delta: Delta) -> str:
        body = self._body
        choice = _chunk(self._serving, body, output, item, delta, index * body.n + item.index)
        usage = usage_field(list(self._last.values()), include=body.include_usage, continuous=body.continuous_usage)
        return event({**self._head, "choices": [choice], **usage})


async def _forward(index: int, generation: Generation, queue: asyncio.Queue[Any]) -> None:
    """Puts outputs, then None, or the error that ended them."""
    try:
        async for output in generation.outputs():
            queue.put_nowait((index, output))
        queue.put_nowait((index, None))
    except Exception as error:  # raised again by the reader of the queue, in its own task
        queue.put_nowait((index, error))
