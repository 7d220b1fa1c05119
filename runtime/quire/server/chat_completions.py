"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from quire.outputs import Logprob, TokenLogprobs
from quire.server.generation import Generation, new_id, now_s, serving_of
from quire.server.schemas import ChatCompletionRequest
from quire.server.streams import DeltaTracker, event, guarded, usage_of

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answers a conversation."""
    serving = serving_of(request)
    model = serving.check_model(body.model)
    params = body.sampling_params(serving.defaults)
    prompt = serving.render_chat([message.for_template() for message in body.messages], tools=body.tools,
                                 add_generation_prompt=body.add_generation_prompt,
                                 continue_final_message=body.continue_final_message,
                                 chat_template_kwargs=body.chat_template_kwargs or {})
    request_id = new_id("chatcmpl")
    generation = Generation(serving, request_id, prompt, params, priority=body.priority, cache_salt=body.cache_salt,
                            add_special_tokens=False)
    generation.check()
    head = {"id": request_id, "created": now_s(), "model": model}
    if body.stream:
        head["object"] = "chat.completion.chunk"
        return StreamingResponse(guarded(_stream(head, body, generation)), media_type="text/event-stream")
    (output,) = await serving.run_until_disconnect(request, [generation])
    choices = [
        {"index": item.index, "message": {"role": "assistant", "content": item.text},
         "logprobs": _logprobs(item.token_ids, item.logprobs, body.top_logprobs or 0), "finish_reason": item.finish_reason,
         "stop_reason": item.stop_reason}
        for item in output.outputs
    ]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage_of([output])})


async def _stream(head: dict[str, Any], body: ChatCompletionRequest, generation: Generation) -> AsyncIterator[str]:
    """A role chunk per choice, then text, then optional usage."""
    options = body.stream_options
    tracker, output = DeltaTracker(), None
    for index in range(body.n):
        yield event({**head, "choices": [_chunk(index, {"role": "assistant", "content": ""})]})
    async for output in generation.outputs():
        for item in output.outputs:
            delta = tracker.take(item)
            if delta is None:
                continue
            choice = _chunk(item.index, {"content": delta.text}, _logprobs(delta.token_ids, delta.logprobs, body.top_logprobs or 0),
                            item.finish_reason, item.stop_reason)
            usage = {"usage": usage_of([output])} if options is not None and options.continuous_usage_stats else {}
            yield event({**head, "choices": [choice], **usage})
    if output is not None and options is not None and options.include_usage:
        yield event({**head, "choices": [], "usage": usage_of([output])})


def _chunk(index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None,
           stop_reason: int | str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason,
            "stop_reason": stop_reason}


def _logprobs(token_ids: list[int], logprobs: list[TokenLogprobs] | None, num_top: int) -> dict[str, Any] | None:
    """Logprobs in the chat endpoint's shape: the tokens, each with its `num_top` most likely alternatives."""
    if logprobs is None:
        return None
    content = []
    for token_id, entry in zip(token_ids, logprobs, strict=True):
        ranked = sorted((value for value in entry.values() if (value.rank or 0) <= num_top), key=lambda value: value.rank or 0)
        content.append({**_item(entry[token_id]), "top_logprobs": [_item(value) for value in ranked]})
    return {"content": content}


def _item(value: Logprob) -> dict[str, Any]:
    text = value.decoded_token or ""
    return {"token": text, "logprob": max(value.logprob, -9999.0), "bytes": list(text.encode())}
