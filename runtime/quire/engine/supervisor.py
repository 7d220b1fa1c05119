"""One engine process after another: reads what they say, replaces one that dies, says when one is stuck."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable

from quire.engine.client import EngineClient, Message
from quire.engine.config import EngineConfig
from quire.engine.input_processor import ModelLimits
from quire.engine.messages import EngineStats
from quire.engine.supervision import RestartLimit, Supervision
from quire.errors import BackendError, InternalError, QuireError

logger = logging.getLogger("quire")

FIRST_DELAY_S = 0.5
"""Before the second restart in a row; doubled with each that follows. The first comes at once."""


class EngineSupervisor:
    """Keeps an engine process running, within the limits of a `Supervision`.

    The first process starts with the object. `wait_ready` and then `run` follow, on one asyncio loop.

    Args:
        on_message: takes what the engine says; must not raise.
        on_loss: is told once of each process that is lost, with the error for those who wait for it; returns how many
            requests those were.

    Attributes:
        client: the process of now. num_restarts: processes that were started in place of one that ended.
    """

    def __init__(
        self,
        config: EngineConfig,
        supervision: Supervision,
        *,
        on_message: Callable[[Message], None],
        on_loss: Callable[[QuireError], int],
    ) -> None:
        self._config, self._supervision = config, supervision
        self._on_message, self._on_loss = on_message, on_loss
        self._limit = RestartLimit(supervision)
        self.client = EngineClient(config, health_timeout_s=supervision.health_timeout_s)
        self.num_restarts = 0
        self._down: QuireError | None = None
        self._is_closing = False
        self._ended = asyncio.Event()
        self._limits: ModelLimits | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_stats: EngineStats | None = None
        self._hung: QuireError | None = None  # why the process of now was killed

    @property
    def last_stats(self) -> EngineStats | None:
        """The newest statistics that a process sent, at most a second old while one lives."""
        return self.client.last_stats or self._last_stats

    async def wait_ready(self) -> ModelLimits:
        """Waits for the first process. One that dies while it loads is not replaced: it never worked."""
        self._limits = await self.client.wait_ready()
        return self._limits

    def run(self) -> None:
        """Begins to read messages and to watch."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise())

    def check(self) -> None:
        """Raises BackendError while there is no engine process, or one that is stuck."""
        self.check_up()
        stuck_s = self.client.liveness.stuck_s() if self._task is not None else 0.0
        if stuck_s:
            raise BackendError(
                "the engine does not answer",
                because=f"it was silent for {stuck_s:.0f} s",
                hint="waiting, in case it goes on; else starting the server again",
            )

    def check_up(self) -> None:
        """Raises BackendError while there is no engine process to talk to; a stuck one counts as one."""
        if self._down is not None:
            raise copy.copy(self._down)  # a traceback of its own

    async def wait_ended(self) -> QuireError:
        """Waits until no process is left and none will be started; returns why."""
        await self._ended.wait()
        assert self._down is not None
        return self._down

    def refuse(self, error: QuireError) -> None:
        """From now on `check` raises `error`, and a process that ends is not replaced; for shutting down."""
        self._is_closing = True
        self._down = self._down or error

    def close(self) -> None:
        """Ends the process; safe to call twice, and at any moment."""
        self._is_closing = True
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()
        self.client.close()

    async def _supervise(self) -> None:
        try:
            loss = await self._read()
            while not self._is_closing and await self._replace(loss):
                loss = await self._read()
        except Exception as error:  # a bug: nobody may wait for a supervisor that has ended
            logger.exception("the engine's supervisor failed")
            self._give_up(
                InternalError(
                    "the engine's supervisor failed",
                    because=f"{type(error).__name__}: {error}",
                    hint="reporting it with the log",
                ),
                "nothing watches it any more",
            )

    async def _read(self) -> QuireError:
        """Takes messages of the process in until it is lost; returns why."""
        self._hung = None
        watching = asyncio.create_task(self._watch_silence(self.client))
        try:
            while True:
                self._on_message(await self.client.receive())
        except QuireError as error:
            return self._hung or error
        finally:
            watching.cancel()

    async def _replace(self, loss: QuireError) -> bool:
        """Whether another process runs in place of the one that was lost."""
        delay_s = 0.0
        while True:
            pid = self.client.pid
            self._last_stats = self.last_stats
            self.client.kill()  # it may live, and say what nobody can read
            self.client.close()
            number = self._limit.take()
            if number == 0:
                self._give_up(loss, self._why_no_restart())
                return False
            self._down = BackendError(
                "the engine is restarting", because=f"{loss.what}: {loss.because}", hint="the request again in a moment"
            )
            num_lost = self._on_loss(loss)
            logger.error(
                "%s (process %d, %s); %d requests end with an error; restart %d of at most %d in %g s begins",
                loss.what,
                pid,
                loss.because,
                num_lost,
                number,
                self._supervision.max_restarts,
                self._supervision.window_s,
            )
            await asyncio.sleep(delay_s)
            delay_s = max(FIRST_DELAY_S, 2 * delay_s)
            start_s = time.monotonic()
            try:
                self.client = EngineClient(self._config, health_timeout_s=self._supervision.health_timeout_s)
                self.num_restarts += 1
                limits = await self.client.wait_ready()
            except QuireError as error:
                loss = error
                continue
            if self._is_another_model(limits):
                self._give_up(
                    BackendError(
                        "the engine loaded another model than before",
                        because="the model's files have changed since the server was started",
                        hint="starting the server again",
                    ),
                    "its tokens would mean something else",
                )
                return False
            if not self._is_closing:
                self._down = None
            logger.warning(
                "the engine runs again as process %d, after %.1f s", self.client.pid, time.monotonic() - start_s
            )
            return True

    def _why_no_restart(self) -> str:
        if self._supervision.on_death == "exit":
            return "nothing restarts it"
        return f"it was restarted {self._supervision.max_restarts} times in {self._supervision.window_s:g} s"

    def _is_another_model(self, limits: ModelLimits) -> bool:
        """Whether the tokens of the front end would mean something else; lengths may differ, the engine checks them."""
        before = self._limits or limits
        return (limits.vocab_size, limits.eos_token_ids) != (before.vocab_size, before.eos_token_ids)

    def _give_up(self, loss: QuireError, why: str) -> None:
        pid = self.client.pid
        self.client.kill()
        self.client.close()
        self._down = BackendError(loss.what, because=f"{loss.because}; {why}", hint=loss.hint)
        self._ended.set()
        num_lost = self._on_loss(self._down)
        logger.error(
            "%s (process %d, %s); %d requests end with an error; %s, so it is gone for good",
            loss.what,
            pid,
            loss.because,
            num_lost,
            why,
        )

    async def _watch_silence(self, client: EngineClient) -> None:
        """Says once when the process gets stuck, and once when it goes on; ends one in a step that never comes.

        Where its device can tell, the process itself gives such a step up: it has the health timeout to do so.
        """
        is_stuck = False
        longest_s = self._config.step_timeout + self._supervision.health_timeout_s
        while True:
            await asyncio.sleep(client.liveness.interval_s)
            client.liveness.look()
            stuck_s = client.liveness.stuck_s()
            if stuck_s and not is_stuck:
                logger.error(
                    "the engine (process %d) does not answer: it was silent for %.0f s; running requests wait,"
                    " new ones are refused",
                    client.pid,
                    stuck_s,
                )
            elif is_stuck and not stuck_s:
                logger.warning("the engine (process %d) answers again", client.pid)
            is_stuck = bool(stuck_s)
            if self._config.step_timeout and stuck_s > longest_s:
                self._hung = BackendError(
                    "a step never came",
                    because=f"the engine was silent for {stuck_s:.0f} s, --step-timeout is"
                    f" {self._config.step_timeout:g}",
                    hint="the request again; a larger --step-timeout, if the device only is slow",
                )
                client.kill()
                return
