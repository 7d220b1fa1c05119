"""The server's side of text workers: who does which job, for how long, and what becomes of a worker that does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from quire.child_process import python_command, python_environment
from quire.engine.client import end_of_process
from quire.engine.input_processor import ModelLimits, PreparedRequest
from quire.engine.messages import Failure
from quire.engine.text_side import TextSource
from quire.engine.text_workers.wire import (
    LENGTH_BYTES,
    Answer,
    Failed,
    Prepare,
    Prepared,
    Ready,
    Render,
    Rendered,
    Setup,
    decode_answer,
    frame,
)
from quire.errors import BackendError, QuireError, RequestError
from quire.sampling_params import SamplingParams

logger = logging.getLogger("quire")

LONG_CHARS = 1 << 16
"""A text from here on is long: one worker never takes one, so that short ones need not wait for it."""

MEMORY_BYTES = 2 << 30
"""What one job may take."""

START_TIMEOUT_S = 120.0
MOST_FAILED_STARTS = 3
"""After so many in a row a worker's place stays empty."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A job nobody does yet."""

    payload: bytes
    is_long: bool
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TextWorkers:
    """Processes that tokenize and render, made by `start`. All methods belong to one asyncio loop, but for `close`.

    Args:
        num_workers: processes; with two or more, one takes short texts only.
        timeout_s: longest time of a job, and longest time that one waits for a worker.
    """

    def __init__(self, *, num_workers: int = 2, timeout_s: float = 30.0) -> None:
        self._setup: Setup | None = None
        self._timeout_s = timeout_s
        self._places = [_Place(self, short_only=number == 0 and num_workers > 1) for number in range(num_workers)]
        self._waiting: deque[_Waiting] = deque()

    async def start(self, source: TextSource) -> None:
        """Starts workers that read their tokenizer and templates from `source`.

        Returns when the first one is ready; the others come later. Raises the QuireError that stopped it.
        """
        self._setup = Setup(source, logging.getLogger("quire").getEffectiveLevel(), self._timeout_s, MEMORY_BYTES)
        first, *others = self._places
        await first.fill()
        for place in others:
            place.refill()

    async def prepare(
        self,
        limits: ModelLimits,
        prompt: str | list[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int,
        cache_salt: str | None,
        add_special_tokens: bool,
    ) -> PreparedRequest:
        """`InputProcessor.prepare` in a worker. Raises RequestError; BackendError when no worker is free for long."""
        try:
            payload = frame(Prepare(limits, prompt, params, request_id, priority, cache_salt, add_special_tokens))
        except UnicodeEncodeError:
            raise RequestError(
                "the text cannot be encoded",
                because="it holds half of a UTF-16 surrogate pair",
                hint="text that is valid Unicode",
                param="prompt",
            ) from None
        except (OverflowError, msgspec.MsgspecError) as error:
            raise RequestError("the prompt holds what is no token id", because=str(error), param="prompt") from error
        answer = await self._do(payload, is_long=len(prompt) >= LONG_CHARS)
        assert isinstance(answer, Prepared)
        return PreparedRequest(request_id, answer.message, answer.prompt, answer.detokenize)

    async def render(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], *, max_chars: int) -> str:
        """`Tokenizer.apply_chat_template` in a worker; a longer prompt than `max_chars` is refused there."""
        try:
            conversation = json.dumps({"messages": messages, "options": options})
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(
                "the conversation is no JSON",
                because=f"{type(error).__name__}: {error}",
                hint="texts, numbers, lists and objects",
                param="messages",
            ) from error
        answer = await self._do(frame(Render(conversation, max_chars)), is_long=len(conversation) >= LONG_CHARS)
        assert isinstance(answer, Rendered)
        return answer.prompt

    def close(self) -> None:
        """Ends all workers; safe to call twice, from any thread, with or without a loop."""
        for place in self._places:
            place.close()

    async def _do(self, payload: bytes, *, is_long: bool) -> Answer:
        job = _Waiting(payload, is_long)
        self._waiting.append(job)
        for place in self._places:
            place.revive()
        self.dispatch()
        try:
            done, _ = await asyncio.wait([job.answer], timeout=2 * self._timeout_s)
            if not done:
                raise BackendError(
                    "the request's text was not prepared in time",
                    because=f"all text workers were busy for {self._timeout_s:g} s",
                    hint="the request again, later; or a larger --text-workers",
                )
            answer = job.answer.result()
        finally:
            job.answer.cancel()  # a job of a client that has gone is not begun
        if isinstance(answer, Failed):
            raise answer.failure.error()
        return answer

    def dispatch(self) -> None:
        """Gives waiting jobs to free workers."""
        for place in self._places:
            if place.is_free:
                job = self._take(short_only=place.short_only)
                if job is not None:
                    place.do(job)

    def _take(self, *, short_only: bool) -> _Waiting | None:
        for job in list(self._waiting):
            if job.answer.done():
                self._waiting.remove(job)
            elif not (short_only and job.is_long):
                self._waiting.remove(job)
                return job
        return None

    # ---- for places -----------------------------------------------------------------------------------

    @property
    def setup(self) -> Setup:
        assert self._setup is not None, "start comes first"
        return self._setup

    @property
    def timeout_s(self) -> float:
        return self._timeout_s


class _Worker:
    """One process and the socket to it."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader, self._writer = reader, writer

    @classmethod
    async def spawn(cls) -> _Worker:
        """Raises BackendError when there is no process to be had."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                # A process group of its own: Ctrl-C in a terminal goes to the parent only, which then ends both.
                process = subprocess.Popen(
                    python_command("quire.engine.text_workers.worker"),
                    stdin=theirs.fileno(),
                    env=python_environment(),
                    process_group=0,
                )
            return cls(process, *await asyncio.open_connection(sock=ours))
        except OSError as error:
            raise BackendError(
                "a text worker cannot be started",
                because=error.strerror or str(error),
                hint="more memory, processes or descriptors (ulimit -a)",
            ) from error

    async def exchange(self, payload: bytes) -> Answer:
        """Sends a frame and waits for the answer. EOFError or ConnectionError when the process ends."""
        self._writer.write(payload)
        await self._writer.drain()
        size = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "little")
        return decode_answer(await self._reader.readexactly(size))

    async def end(self) -> str:
        """Ends the process; how it ended, in words."""
        self.kill()
        return end_of_process(await asyncio.get_running_loop().run_in_executor(None, self.process.wait))

    def kill(self) -> None:
        """Ends the process without waiting; safe to call twice, with or without a loop."""
        self.process.kill()
        with contextlib.suppress(RuntimeError):  # its loop is closed already
            self._writer.close()


class _Place:
    """Where one worker is, or another one comes when it has ended."""

    def __init__(self, pool: TextWorkers, *, short_only: bool) -> None:
        self._pool = pool
        self.short_only = short_only
        self._worker: _Worker | None = None
        self._task: asyncio.Task[None] | None = None  # what it does now: a job, or a start
        self._closed = False

    @property
    def is_free(self) -> bool:
        return self._worker is not None and self._task is None and not self._closed

    async def fill(self) -> None:
        """Starts a worker and waits until it is ready. Raises the QuireError that stopped it."""
        worker = await _Worker.spawn()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                answer = await worker.exchange(frame(self._pool.setup))
        except (TimeoutError, EOFError, ConnectionError) as error:
            raise BackendError(
                "a text worker does not start", because=await worker.end(), hint="its own messages"
            ) from error
        except BaseException:
            worker.kill()
            raise
        if isinstance(answer, Failed):
            await worker.end()
            raise answer.failure.error()
        assert isinstance(answer, Ready)
        if self._closed:
            worker.kill()
        self._worker = worker

    def refill(self) -> None:
        """Starts a worker in the background."""
        self._task = asyncio.get_running_loop().create_task(self._refill())

    def revive(self) -> None:
        """Tries again where all tries to start a worker had failed."""
        if self._worker is None and self._task is None and not self._closed:
            self.refill()

    def do(self, job: _Waiting) -> None:
        """Does a job in the background."""
        self._task = asyncio.get_running_loop().create_task(self._do(job))

    def close(self) -> None:
        """Ends the worker; safe to call twice."""
        self._closed = True
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed already
                self._task.cancel()
        if self._worker is not None:
            self._worker.kill()
            self._worker.process.wait()

    async def _refill(self) -> None:
        for number in range(1, MOST_FAILED_STARTS + 1):
            try:
                await self.fill()
                break
            except QuireError as error:
                logger.error(
                    "a text worker could not be started (try %d of %d): %s",
                    number,
                    MOST_FAILED_STARTS,
                    " ".join(str(error).split()),
                )
        self._task = None
        self._pool.dispatch()

    async def _do(self, job: _Waiting) -> None:
        worker = self._worker
        assert worker is not None
        try:
            async with asyncio.timeout(self._pool.timeout_s):
                answer = await worker.exchange(job.payload)
        except TimeoutError:
            answer = self._gave_up(
                f"the tokenizer or the chat template took longer than {self._pool.timeout_s:g} s",
                "a shorter text; --text-timeout when the server is started",
            )
            await worker.end()
        except (EOFError, ConnectionError, msgspec.MsgspecError):
            answer = self._gave_up(
                f"the process that did it ended: {await worker.end()}",
                "a shorter text: a process ends when one takes too much memory",
            )
        if not job.answer.done():
            job.answer.set_result(answer)
        self._task = None
        self.revive()
        self._pool.dispatch()

    def _gave_up(self, because: str, hint: str) -> Failed:
        self._worker = None
        logger.warning("a text worker is replaced: %s", because)
        return Failed(
            Failure.of(RequestError("the text of this request could not be prepared", because=because, hint=hint))
        )
