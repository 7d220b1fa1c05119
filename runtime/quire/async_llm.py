"""`AsyncLLM`: the engine for servers. Many requests from one asyncio loop; the model runs in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import logging
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from quire.engine.client import Message
from quire.engine.config import EngineConfig
from quire.engine.input_processor import InputProcessor, ModelLimits, PreparedRequest, Prompt, split_prompt
from quire.engine.messages import EngineStats, SequenceOutput
from quire.engine.output_processor import OutputProcessor
from quire.engine.supervision import Supervision
from quire.engine.supervisor import EngineSupervisor
from quire.engine.text_side import TextSource, find_text_source, load_text_side
from quire.engine.text_workers.pool import TextWorkers
from quire.engine.wire import Refusal
from quire.errors import BackendError, InternalError, QuireError, RequestError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

if TYPE_CHECKING:
    from quire.tokenizer import Tokenizer

logger = logging.getLogger("quire")

T = TypeVar("T")

STATS_TIMEOUT_S = 1.0
"""How long `stats` waits for an engine in the middle of a step."""


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

    The process starts with the object, so that the model loads while the caller prepares; `start` waits for it. When
    it ends later, running requests end with a BackendError, and `supervision` says what comes then.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        supervision: Supervision | None = None,
        num_text_workers: int = 2,
        text_timeout_s: float = 30.0,
    ) -> None:
        self._config = config
        self._text_workers: TextWorkers | None = None
        if not config.skip_tokenizer_init:
            self._text_workers = TextWorkers(num_workers=num_text_workers, timeout_s=text_timeout_s)
        self._supervisor = EngineSupervisor(
            config, supervision or Supervision(), on_message=self._take, on_loss=self._fail_all
        )
        self._streams: dict[str, _Stream] = {}
        self._numbers = itertools.count()
        self._stats_waiters: list[asyncio.Future[EngineStats]] = []
        self._limits: ModelLimits | None = None
        self._tokenizer: Tokenizer | None = None
        self._inputs: InputProcessor | None = None
        self._outputs: OutputProcessor | None = None
        self.sampling_defaults: dict[str, Any] = {}

    async def start(self) -> None:
        """Waits until the model is loaded; raises the QuireError that stopped it. Further calls do nothing."""
        if self._outputs is not None:
            return
        ready = asyncio.create_task(self._supervisor.wait_ready())
        text_side = asyncio.create_task(self._start_text_side())
        try:
            limits, _ = await asyncio.gather(ready, text_side)
        except BaseException:
            ready.cancel()
            text_side.cancel()
            raise
        self._limits = limits
        self._inputs = InputProcessor(limits, self._tokenizer)
        self._outputs = OutputProcessor(self._tokenizer)
        self._supervisor.run()

    async def _start_text_side(self) -> None:
        self._tokenizer, self.sampling_defaults, source = await _in_thread(self._load_text_side)
        if self._text_workers is not None:
            await self._text_workers.start(source)

    def _load_text_side(self) -> tuple[Tokenizer | None, dict[str, Any], TextSource]:
        tokenizer, defaults = load_text_side(self._config)
        if tokenizer is not None:
            _ = tokenizer.longest_token_chars  # found here, and not in the event loop
        return tokenizer, defaults, find_text_source(self._config)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The Tokenizer, or None with skip_tokenizer_init."""
        self._started()
        return self._tokenizer

    async def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The prompt of a conversation; options as `ChatTemplate.render`, in JSON's types.

        Raises: RequestError without a template, or when it refuses the conversation or takes too long or too much;
            BackendError when no text worker is free for long.
        """
        self._started()
        assert self._inputs is not None
        if self._text_workers is None:
            raise RequestError(
                "chat without a tokenizer",
                because="skip_tokenizer_init is set",
                hint="completions with token ids",
                param="messages",
            )
        return await self._text_workers.render(messages, options, max_chars=self._inputs.max_prompt_chars)

    @property
    def model_path(self) -> str:
        return self._started().model_path

    @property
    def max_model_len(self) -> int:
        return self._started().max_model_len

    def check_health(self) -> None:
        """Raises BackendError while the engine process is dead, restarting, or silent for longer than it may be."""
        self._supervisor.check()

    async def wait_ended(self) -> QuireError:
        """Waits until the engine is gone for good, as `supervision` has it; returns why."""
        return await self._supervisor.wait_ended()

    @property
    def last_stats(self) -> EngineStats | None:
        """The newest statistics, without a question to the engine; None before there were any."""
        return self._supervisor.last_stats

    @property
    def num_restarts(self) -> int:
        """How often another engine process took the place of one that had ended."""
        return self._supervisor.num_restarts

    async def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
        add_special_tokens: bool = True,
    ) -> PreparedRequest:
        """Tokenizes, in a text worker, and validates. Raises RequestError; BackendError when no worker is free."""
        limits = self._started()
        assert self._inputs is not None
        request_id = request_id or uuid.uuid4().hex
        content, salt = split_prompt(prompt)
        cache_salt = salt if cache_salt is None else cache_salt
        if isinstance(content, str):
            self._inputs.check_length(content)
        if self._text_workers is not None and (isinstance(content, str) or params.bad_words):
            prepared = await self._text_workers.prepare(
                limits,
                content,
                params,
                request_id=request_id,
                priority=priority,
                cache_salt=cache_salt,
                add_special_tokens=add_special_tokens,
            )
        else:
            prepared = self._inputs.prepare(
                content,
                params,
                request_id=request_id,
                priority=priority,
                cache_salt=cache_salt,
                add_special_tokens=add_special_tokens,
            )
        # An id may come again while the engine's last words on the one before are on their way.
        message = replace(prepared.message, request_id=f"{prepared.request_id}.{next(self._numbers)}")
        return replace(prepared, message=message)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Outputs of one request until it is finished; leaving the loop early aborts it.

        Each is the same object, cumulative and up to date; tokens that came while the reader was busy come together.
        Raises: RequestError before the first output, BackendError when the device or the engine process fails.
        """
        prepared = await self.prepare(prompt, params, request_id=request_id, priority=priority, cache_salt=cache_salt)
        async with contextlib.aclosing(self.stream(prepared)) as outputs:
            async for output in outputs:
                yield output

    async def stream(self, prepared: PreparedRequest) -> AsyncGenerator[RequestOutput, None]:
        """As `generate`, for a prepared request."""
        self.check_health()
        assert self._outputs is not None
        request_id = prepared.message.request_id
        stream = self._streams[request_id] = _Stream()
        self._outputs.add(prepared)
        finished = False
        try:
            self._supervisor.client.add_request(prepared.message)
            while not finished:
                await stream.changed.wait()
                stream.changed.clear()
                if stream.error is not None:
                    finished = True
                    raise copy.copy(stream.error)
                assert stream.output is not None
                finished = stream.output.finished
                yield stream.output
        finally:
            del self._streams[request_id]
            if not finished:
                self._outputs.discard(request_id)
                with contextlib.suppress(BackendError):  # a dead engine has nothing to abort
                    self._supervisor.client.abort([(request_id, None)])

    async def stats(self) -> EngineStats:
        """The engine core's statistics; the newest ones it sent when it is busy or stuck for longer than a second.

        Raises: BackendError when there is no engine process.
        """
        self._supervisor.check_up()
        waiter: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()
        self._stats_waiters.append(waiter)
        self._supervisor.client.request_stats()
        try:
            return await asyncio.wait_for(waiter, STATS_TIMEOUT_S)
        except TimeoutError:
            if self.last_stats is not None:
                return self.last_stats
            raise BackendError(
                "the engine does not answer", because="it has said nothing since its start", hint="asking again later"
            ) from None
        finally:
            if waiter in self._stats_waiters:
                self._stats_waiters.remove(waiter)

    def end_all(self, error: QuireError) -> None:
        """Ends every stream with `error`, and refuses what comes later with it; for shutting down."""
        self._supervisor.refuse(error)
        self._fail_all(error)

    def close(self) -> None:
        """Ends the engine process and the text workers; safe to call twice, and at any moment."""
        if self._text_workers is not None:
            self._text_workers.close()
        self._supervisor.close()

    def _fail_all(self, error: QuireError) -> int:
        """Ends all streams; returns how many there were."""
        num_streams = len(self._streams)
        for request_id in list(self._streams):
            self._fail(request_id, error)
        waiters, self._stats_waiters = self._stats_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(copy.copy(error))
        return num_streams

    def _take(self, message: Message) -> None:
        if isinstance(message, list):
            try:
                self._take_outputs(message)
            except Exception as error:  # a bug: whose outputs these are, ends, and nobody else
                self._give_up(message, error)
        elif isinstance(message, Refusal):
            self._fail(message.request_id, message.failure.error())
        else:
            waiters, self._stats_waiters = self._stats_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(message)

    def _give_up(self, outputs: list[SequenceOutput], reason: Exception) -> None:
        logger.error("outputs of the engine could not be taken in; their requests end", exc_info=reason)
        error = InternalError(
            "outputs of the engine could not be taken in",
            because=f"{type(reason).__name__}: {reason}",
            hint="reporting it with the log",
        )
        request_ids = dict.fromkeys(output.request_id for output in outputs)
        for request_id in request_ids:
            self._fail(request_id, error)
        with contextlib.suppress(BackendError):  # a dead engine has nothing to abort
            self._supervisor.client.abort([(request_id, None) for request_id in request_ids])

    def _take_outputs(self, outputs: list[SequenceOutput]) -> None:
        assert self._outputs is not None
        processed = self._outputs.process(outputs)
        for request_id, output in processed.requests.items():
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.output = output
                stream.changed.set()
        for request_id, error in processed.failed:
            self._fail(request_id, error)
        if processed.stopped:
            with contextlib.suppress(BackendError):  # a dead engine has nothing to abort
                self._supervisor.client.abort(processed.stopped)

    def _fail(self, request_id: str, error: QuireError) -> None:
        assert self._outputs is not None
        self._outputs.discard(request_id)
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.error = error
            stream.changed.set()

    def _started(self) -> ModelLimits:
        if self._limits is None:
            raise BackendError(
                "the engine is not started", because="the model is still loading", hint="await engine.start()"
            )
        return self._limits


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of blocking work. Nobody waits for its thread: a program may end in the middle of a download."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has gone first
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return future
