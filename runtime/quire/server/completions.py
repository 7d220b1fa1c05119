"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from quire.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from quire.server.generation import Generation, new_id, now_s, serving_of
from quire.server.schemas import CompletionRequest
from quire.server.streams import DeltaTracker, event, guarded, usage_of

router = APIRouter()


@router.post("/v1/completions", response_model=None)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continues one or several prompts."""
    serving = serving_of(request)
    model = serving.check_model(body.model)
    params = body.sampling_params(serving.defaults)
    request_id = new_id("cmpl")
    generations = [
        Generation(serving, f"{request_id}-{i}", prompt, params, priority=body.priority, cache_salt=body.cache_salt,
                   add_special_tokens=body.add_special_tokens)
        for i, prompt in enumerate(body.prompts())
    ]
    head = {"id": request_id, "object": "text_completion", "created": now_s(), "model": model}
    for generation in generations:
        generation.check()
    if body.stream:
        return StreamingResponse(guarded(_stream(head, body, generations)), media_type="text/event-stream")
    outputs = await serving.run_until_disconnect(request, generations)
    choices = [
        _choice(output, item, index * body.n + item.index, echo=body.echo)
        for index, output in enumerate(outputs) for item in output.outputs
    ]
    return JSONResponse({**head, "choices": choices, "usage": usage_of(outputs)})


async def _stream(head: dict[str, Any], body: CompletionRequest, generations: list[Generation]) -> AsyncIterator[str]:
    """Chunks of all prompts as they come."""
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(i, generation, queue)) for i, generation in enumerate(generations)]
    trackers = [DeltaTracker() for _ in generations]
    last: dict[int, RequestOutput] = {}
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    continuous = body.stream_options is not None and body.stream_options.continuous_usage_stats
    running = len(tasks)
    try:
        while running:
            index, output = await queue.get()
            if isinstance(output, Exception):
                raise output
            if output is None:
                running -= 1
                continue
            last[index] = output
            for item in output.outputs:
                delta = trackers[index].take(item)
                if delta is None:
                    continue
                offset = len(item.text) - len(delta.text)
                choice = {"index": index * body.n + item.index, "text": delta.text,
                          "logprobs": _logprobs(delta.token_ids, delta.logprobs, offset),
                          "finish_reason": item.finish_reason, "stop_reason": item.stop_reason}
                usage = {"usage": usage_of(list(last.values()))} if continuous else {}
                yield event({**head, "choices": [choice], **usage})
        if include_usage:
            yield event({**head, "choices": [], "usage": usage_of(list(last.values()))})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(index: int, generation: Generation, queue: asyncio.Queue[Any]) -> None:
    try:
        async for output in generation.outputs():
            await queue.put((index, output))
        await queue.put((index, None))
    except Exception as error:  # handed to the consumer, which raises it in its own task
        await queue.put((index, error))


def _choice(output: RequestOutput, item: CompletionOutput, index: int, *, echo: bool) -> dict[str, Any]:
    text, token_ids, logprobs = item.text, item.token_ids, item.logprobs
    if echo:
        text = (output.prompt or "") + text
        token_ids = [*output.prompt_token_ids, *token_ids]
        if output.prompt_logprobs is not None:
            logprobs = [*(entry or {} for entry in output.prompt_logprobs), *(logprobs or [])]
    choice = {"index": index, "text": text, "logprobs": _logprobs(token_ids, logprobs, 0),
              "finish_reason": item.finish_reason, "stop_reason": item.stop_reason}
    if output.prompt_logprobs is not None and not echo:
        choice["prompt_logprobs"] = [_by_id(entry) for entry in output.prompt_logprobs]
    return choice


def _by_id(entry: TokenLogprobs | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {str(token): {"logprob": value.logprob, "rank": value.rank, "decoded_token": value.decoded_token}
            for token, value in entry.items()}


def _logprobs(token_ids: list[int], logprobs: list[TokenLogprobs] | None, offset: int) -> dict[str, Any] | None:
    """Logprobs in the completions endpoint's shape: parallel lists."""
    if logprobs is None:
        return None
    tokens, values, tops, offsets = [], [], [], []
    for token_id, entry in zip(token_ids, logprobs, strict=True):
        own = entry.get(token_id)
        text = (own.decoded_token if own is not None else None) or ""
        tokens.append(text)
        values.append(own.logprob if own is not None else None)
        tops.append({(value.decoded_token or f"token_id:{token}"): value.logprob for token, value in entry.items()} or None)
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
