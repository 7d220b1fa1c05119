"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quire.server.body import read_body
from quire.server.cache_scope import set_cache_salt
from quire.server.generation import Generation, Serving, new_id, now_s, run_until_disconnect, serving_of
from quire.server.schemas import ChatCompletionRequest
from quire.server.streams import DeltaTracker, event, event_stream, usage_field, usage_of

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(request: Request) -> Response:
    """Answers a conversation."""
    serving = serving_of(request)
    body = await read_body(request, ChatCompletionRequest)
    set_cache_salt(request, body)
    model = serving.check_model(body.model)
    params = body.sampling_params(serving.defaults)
    request_id = f"chatcmpl-{body.request_id}" if body.request_id is not None else new_id("chatcmpl")
    prompt = await serving.engine.render_chat(
        body.messages,
        tools=body.tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    with body.own_names():
        generation = await Generation.create(
            serving, request_id, prompt, params, body, add_special_tokens=body.add_special_tokens
        )
    head = {"id": request_id, "created": now_s(), "model": model}
    if body.stream:
        return event_stream(_stream(serving, {**head, "object": "chat.completion.chunk"}, body, generation))
    (output,) = await run_until_disconnect(request, [generation])
    shapes = serving.logprobs.naming_ids(body.return_tokens_as_token_ids)
    choices = [
        {
            "index": item.index,
            "message": {"role": "assistant", "content": item.text},
            "logprobs": shapes.chat(item.token_ids, item.logprobs, body.top_logprobs or 0),
            "finish_reason": item.finish_reason,
            "stop_reason": item.stop_reason,
            **({"token_ids": item.token_ids} if body.return_token_ids else {}),
        }
        for item in output.outputs
    ]
    answer = {**head, "object": "chat.completion", "choices": choices, "usage": usage_of([output])}
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = serving.logprobs.prompt(output.prompt_logprobs)
    if body.return_token_ids:
        answer["prompt_token_ids"] = output.prompt_token_ids
    return JSONResponse(answer)


async def _stream(
    serving: Serving, head: dict[str, Any], body: ChatCompletionRequest, generation: Generation
) -> AsyncIterator[str]:
    """When the first token has come, a role chunk per choice; then text, then optional usage."""
    shapes = serving.logprobs.naming_ids(body.return_tokens_as_token_ids)
    tracker, output = DeltaTracker(), None
    async for now in generation.outputs():
        usage = usage_field([now], include=body.include_usage, continuous=body.continuous_usage)
        if output is None:
            prompt = {"prompt_token_ids": now.prompt_token_ids} if body.return_token_ids else {}
            for index in range(body.n):
                choice = _chunk(index, {"role": "assistant", "content": ""})
                yield event({**head, "choices": [choice], **prompt, **usage})
        output = now
        for item in output.outputs:
            delta = tracker.take(item)
            if delta is None:
                continue
            choice = _chunk(
                item.index,
                {"content": delta.text},
                shapes.chat(delta.token_ids, delta.logprobs, body.top_logprobs or 0),
                item.finish_reason,
                item.stop_reason,
            )
            if body.return_token_ids:
                choice["token_ids"] = delta.token_ids
            yield event({**head, "choices": [choice], **usage})
    if output is not None and body.include_usage:
        yield event({**head, "choices": [], "usage": usage_of([output])})


def _chunk(
    index: int,
    delta: dict[str, Any],
    logprobs: Any = None,
    finish_reason: str | None = None,
    stop_reason: int | str | None = None,
) -> dict[str, Any]:
    return {
        "index": index,
        "delta": delta,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
        "stop_reason": stop_reason,
    }
