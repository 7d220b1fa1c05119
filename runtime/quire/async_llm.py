"""`AsyncLLM`: the engine for servers. Many requests at once from one asyncio loop; the model runs in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from quire.engine.client import EngineClient, refusal_error
from quire.engine.config import EngineConfig
from quire.engine.input_processor import InputProcessor, ModelLimits, PreparedRequest, Prompt
from quire.engine.messages import EngineStats
from quire.engine.output_processor import OutputProcessor
from quire.engine.process import Refusal
from quire.errors import BackendError, QuireError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams


@dataclass(slots=True)
class _Stream:
    """One reader's view of its request: the newest cumulative output, and a bell."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    output: RequestOutput | None = None
    error: QuireError | None = None


class AsyncLLM:
    """An engine process and its front end.

        engine = AsyncLLM(EngineConfig(model="demo"))
        await engine.start()
        async for output in engine.generate("Hello", SamplingParams(max_tokens=8), request_id="1"):
            print(output.outputs[0].text)
        engine.close()

    The process starts with the object, so that the model loads while the caller prepares; `start` waits for it.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._client = EngineClient(config)
        self._streams: dict[str, _Stream] = {}
        self._stats_waiters: list[asyncio.Future[EngineStats]] = []
        self._death: QuireError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._limits: ModelLimits | None = None
        self._tokenizer: Any = None
        self._inputs: InputProcessor | None = None
        self._outputs: OutputProcessor | None = None
        self.sampling_defaults: dict[str, Any] = {}

    async def start(self) -> None:
        """Waits until the model is loaded; raises the QuireError that stopped it. Further calls do nothing."""
        if self._reader is not None:
            return
        self._limits = await self._client.wait_ready()
        if not self._config.skip_tokenizer_init:
            from quire.engine.build import load_text_side

            self._tokenizer, self.sampling_defaults = load_text_side(self._config)
        self._inputs = InputProcessor(self._limits, self._tokenizer)
        self._outputs = OutputProcessor(self._tokenizer)
        self._reader = asyncio.create_task(self._read())

    @property
    def tokenizer(self) -> Any:
        """The Tokenizer. Raises QuireError when there is none."""
        if self._tokenizer is None:
            raise BackendError("no tokenizer", because="skip_tokenizer_init is set or the engine is not started")
        return self._tokenizer

    @property
    def model_path(self) -> str:
        return self._started().model_path

    @property
    def max_model_len(self) -> int:
        return self._started().max_model_len

    def check_health(self) -> None:
        """Raises BackendError when the engine process has died."""
        if self._death is not None:
            raise self._death

    def prepare(self, prompt: Prompt, params: SamplingParams, *, request_id: str | None = None, priority: int = 0,
                cache_salt: str | None = None, add_special_tokens: bool = True) -> PreparedRequest:
        """Tokenizes and validates; raises RequestError."""
        self._started()
        assert self._inputs is not None
        return self._inputs.prepare(prompt, params, request_id=request_id or uuid.uuid4().hex, priority=priority,
                                    cache_salt=cache_salt, add_special_tokens=add_special_tokens)

    async def generate(self, prompt: Prompt, params: SamplingParams, *, request_id: str | None = None, priority: int = 0,
                       cache_salt: str | None = None) -> AsyncIterator[RequestOutput]:
        """Cumulative outputs of one request until it is finished; leaving the loop early aborts it."""
        prepared = self.prepare(prompt, params, request_id=request_id, priority=priority, cache_salt=cache_salt)
        async for output in self.stream(prepared):
            yield output

    async def stream(self, prepared: PreparedRequest) -> AsyncIterator[RequestOutput]:
        """As `generate`, for a prepared request."""
        self.check_health()
        assert self._outputs is not None
        request_id = prepared.message.request_id
        stream = self._streams[request_id] = _Stream()
        self._outputs.add(prepared)
        finished = False
        try:
            await self._client.add_request(prepared.message)
            while not finished:
                await stream.changed.wait()
                stream.changed.clear()
                if stream.error is not None:
                    finished = True
                    raise stream.error
                assert stream.output is not None
                finished = stream.output.finished
                yield stream.output
        finally:
            self._streams.pop(request_id, None)
            if not finished:
                self._outputs.discard(request_id)
                if self._death is None:
                    await asyncio.shield(self._client.abort([(request_id, None)]))

    async def stats(self) -> EngineStats:
        """The engine core's statistics."""
        self.check_health()
        waiter: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._stats_waiters.append(waiter)
        await self._client.request_stats()
        return await waiter

    def close(self) -> None:
        """Ends the engine process; safe to call twice."""
        if self._reader is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                self._reader.cancel()
        self._client.close()

    async def _read(self) -> None:
        """Takes messages of the engine process in until it dies."""
        try:
            while True:
                message = await self._client.receive()
                if isinstance(message, list):
                    await self._take_outputs(message)
                elif isinstance(message, Refusal):
                    self._fail(message.request_id, refusal_error(message))
                else:
                    for waiter in self._stats_waiters:
                        if not waiter.done():
                            waiter.set_result(message)
                    self._stats_waiters.clear()
        except QuireError as error:
            self._death = error
            for request_id in list(self._streams):
                self._fail(request_id, error)
            for waiter in self._stats_waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            self._stats_waiters.clear()

    async def _take_outputs(self, outputs: list[Any]) -> None:
        assert self._outputs is not None
        processed = self._outputs.process(outputs)
        for output in processed.requests:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                stream.output = output
                stream.changed.set()
        for request_id, error in processed.failed:
            self._fail(request_id, error)
        if processed.stopped:
            await self._client.abort(processed.stopped)

    def _fail(self, request_id: str, error: QuireError) -> None:
        assert self._outputs is not None
        self._outputs.discard(request_id)
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.error = error
            stream.changed.set()

    def _started(self) -> ModelLimits:
        if self._limits is None:
            raise BackendError("the engine is not started", because="the model is still loading", try_="await engine.start()")
        return self._limits
