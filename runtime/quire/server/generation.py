"""What a route needs to generate: the served model, and one prompt's way through the engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request

from quire.async_llm import AsyncLLM
from quire.engine.input_processor import PreparedRequest
from quire.errors import InternalError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams
from quire.server.errors import ClientDisconnected, ModelNotFound
from quire.server.logprobs import LogprobShapes
from quire.server.request_log import printable
from quire.server.sampling_fields import SamplingFields

logger = logging.getLogger("quire")

MAX_USER_CHARS = 64
"""Of a request's `user` that stand in the log."""


def new_id(prefix: str) -> str:
    """A unique request id such as `cmpl-4f...`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now_s() -> int:
    """Seconds since the epoch, as the API's `created`."""
    return int(time.time())


class Serving:
    """A started engine under the names it is served as."""

    def __init__(self, engine: AsyncLLM, model_names: Sequence[str]) -> None:
        self.engine = engine
        self.model_names = tuple(model_names)
        self.created_s = now_s()
        self.logprobs = LogprobShapes(engine.tokenizer)

    @property
    def defaults(self) -> dict[str, Any]:
        """Sampling defaults of the model's generation_config.json."""
        return dict(self.engine.sampling_defaults)

    def check_model(self, name: str | None) -> str:
        """The served name; raises ModelNotFound for another one. None = the first."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names:
            raise ModelNotFound(
                f"the model {name!r} does not exist",
                because=f"this server has {', '.join(self.model_names)}",
                hint=f"model={self.model_names[0]!r}",
                param="model",
            )
        return name

    def prompt_text(self, output: RequestOutput) -> str:
        """The prompt as text, for `echo`."""
        if output.prompt is not None or self.engine.tokenizer is None:
            return output.prompt or ""
        return self.engine.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)


class Generation:
    """One prompt of an API request, tokenized and checked."""

    def __init__(self, engine: AsyncLLM, prepared: PreparedRequest) -> None:
        self._engine, self._prepared = engine, prepared

    @classmethod
    async def create(
        cls,
        serving: Serving,
        request_id: str,
        prompt: str | list[int],
        params: SamplingParams,
        body: SamplingFields,
        *,
        add_special_tokens: bool,
    ) -> Generation:
        """Raises RequestError, before any byte is sent."""
        serving.engine.check_health()
        prepared = await serving.engine.prepare(
            prompt,
            params,
            request_id=request_id,
            priority=body.priority,
            cache_salt=body.cache_salt,
            add_special_tokens=add_special_tokens,
        )
        user = "" if body.user is None else f", user='{printable(body.user, MAX_USER_CHARS)}'"
        logger.info(
            "%s: %d prompt tokens, max_tokens=%s%s",
            request_id,
            len(prepared.message.prompt_token_ids),
            params.max_tokens,
            user,
        )
        return cls(serving.engine, prepared)

    async def outputs(self) -> AsyncIterator[RequestOutput]:
        """Cumulative outputs; leaving the loop early aborts the request."""
        async with contextlib.aclosing(self._engine.stream(self._prepared)) as stream:
            async for output in stream:
                yield output

    async def final(self) -> RequestOutput:
        """The finished output."""
        last = None
        async for output in self.outputs():
            last = output
        if last is None or not last.finished:
            raise InternalError("a request ended without its last output", because="the engine's stream ended first")
        return last


async def run_until_disconnect(request: Request, generations: Sequence[Generation]) -> list[RequestOutput]:
    """The final outputs of all generations; the first error, or the client's leaving, aborts the others."""
    tasks = [asyncio.create_task(generation.final()) for generation in generations]
    gone = asyncio.create_task(_disconnect(request))
    try:
        pending: set[asyncio.Task[Any]] = {*tasks, gone}
        while pending > {gone}:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                raise ClientDisconnected
            for task in done:
                task.result()
        return [task.result() for task in tasks]
    finally:
        for task in (*tasks, gone):
            task.cancel()
        await asyncio.gather(*tasks, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    """Returns when the client has gone. The request's body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def serving_of(request: Request) -> Serving:
    """The app's Serving."""
    serving = request.app.state.serving
    assert isinstance(serving, Serving)
    return serving
