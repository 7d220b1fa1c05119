"""What a route needs to generate: the served model, and one request's way through the engine."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import Request

from quire.async_llm import AsyncLLM
from quire.engine.input_processor import PreparedRequest
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams
from quire.server.errors import ClientDisconnected, ModelNotFound

DISCONNECT_POLL_S = 0.25


def new_id(prefix: str) -> str:
    """A unique request id such as `cmpl-4f...`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now_s() -> int:
    """Seconds since the epoch, as the API's `created`."""
    return int(time.time())


class Serving:
    """The engine under the names it is served as."""

    def __init__(self, engine: AsyncLLM, model_names: Sequence[str]) -> None:
        self.engine = engine
        self.model_names = tuple(model_names)
        self.created_s = now_s()

    @property
    def defaults(self) -> dict[str, Any]:
        """Sampling defaults of the model's generation_config.json."""
        return dict(self.engine.sampling_defaults)

    def check_model(self, name: str | None) -> str:
        """The served name; raises ModelNotFound for another one. None = the first."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            raise ModelNotFound(f"the model {name!r} does not exist", because=f"this server has {', '.join(self.model_names)}",
                                try_=f"model={self.model_names[0]!r}", param="model")
        return name

    def render_chat(self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]] | None, add_generation_prompt: bool,
                    continue_final_message: bool, chat_template_kwargs: Mapping[str, Any]) -> str:
        """The prompt text of a conversation."""
        return self.engine.tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message, chat_template_kwargs=chat_template_kwargs)

    async def run_until_disconnect(self, request: Request, generations: Sequence[Generation]) -> list[RequestOutput]:
        """The final outputs of all generations; aborts them when the client goes away first."""
        work = asyncio.ensure_future(asyncio.gather(*(generation.final() for generation in generations)))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=DISCONNECT_POLL_S)
                if not work.done() and await request.is_disconnected():
                    raise ClientDisconnected
            return list(work.result())
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


class Generation:
    """One prompt of an API request."""

    def __init__(self, serving: Serving, request_id: str, prompt: str | list[int], params: SamplingParams, *, priority: int,
                 cache_salt: str | None, add_special_tokens: bool) -> None:
        self._engine = serving.engine
        self._make = lambda: serving.engine.prepare(prompt, params, request_id=request_id, priority=priority,
                                                    cache_salt=cache_salt, add_special_tokens=add_special_tokens)
        self._prepared: PreparedRequest | None = None

    def check(self) -> None:
        """Tokenizes and validates; raises RequestError before any byte of an answer is sent."""
        self._prepared = self._make()

    async def outputs(self) -> AsyncIterator[RequestOutput]:
        """Cumulative outputs; leaving the loop early aborts the request."""
        assert self._prepared is not None, "check() comes first"
        async for output in self._engine.stream(self._prepared):
            yield output

    async def final(self) -> RequestOutput:
        """The finished output."""
        last = None
        async for output in self.outputs():
            last = output
        assert last is not None and last.finished
        return last


def serving_of(request: Request) -> Serving:
    """The app's Serving."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving
