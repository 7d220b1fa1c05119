"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from quire.server.generation import Generation, Serving, new_id, now_s, run_until_disconnect, serving_of
from quire.server.schemas import ChatCompletionRequest
from quire.server.streams import DeltaTracker, event, event_stream, usage_field, usage_of

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answers a conversation."""
    serving = serving_of(request)
    model = serving.check_model(body.model)
    params = body.sampling_params(serving.defaults)
    prompt = serving.engine.render_chat(
        body.messages,
        tools=body.tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    request_id = new_id("chatcmpl")
    generation = Generation(serving, request_id, prompt, params, body, add_special_tokens=False)
    head = {"id": request_id, "created": now_s(), "model": model}
    if body.stream:
        return event_stream(_stream(serving, {**head, "object": "chat.completion.chunk"}, body, generation))
    (output,) = await run_until_disconnect(request, [generation])
    choices = [
        {"index": item.index, "message": {"role": "assistant", "content": item.text},
         "logprobs": serving.logprobs.chat(item.token_ids, item.logprobs, body.top_logprobs or 0),
         "finish_reason": item.finish_reason, "stop_reason": item.stop_reason}
        for item in output.outputs
    ]
    answer = {**head, "object": "chat.completion", "choices": choices, "usage": usage_of([output])}
    if output.prompt_logprobs is not None:
        answer["prompt_logprobs"] = serving.logprobs.prompt(output.prompt_logprobs)
    return JSONResponse(answer)


async def _stream(
    serving: Serving, head: dict[str, Any], body: ChatCompletionRequest, generation: Generation
) -> AsyncIterator[str]:
    """A role chunk per choice, then text, then optional usage."""
    tracker, output = DeltaTracker(), None
    for index in range(body.n):
        choice = _chunk(index, {"role": "assistant", "content": ""})
        yield event({**head, "choices": [choice], **({"usage": None} if body.include_usage else {})})
    async for output in generation.outputs():
        for item in output.outputs:
            delta = tracker.take(item)
            if delta is None:
                continue
            choice = _chunk(item.index, {"content": delta.text},
                            serving.logprobs.chat(delta.token_ids, delta.logprobs, body.top_logprobs or 0),
                            item.finish_reason, item.stop_reason)
            usage = usage_field([output], include=body.include_usage, continuous=body.continuous_usage)
            yield event({**head, "choices": [choice], **usage})
    if output is not None and body.include_usage:
        yield event({**head, "choices": [], "usage": usage_of([output])})


def _chunk(index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None,
           stop_reason: int | str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason,
            "stop_reason": stop_reason}
