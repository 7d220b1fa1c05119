"""An engine's executor over time: a step that never comes, and the executor that follows one that broke."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from quire.device.backend_errors import backend_error
from quire.device.batch import StepBatch, StepResult
from quire.device.contract import Executor, KVPlan, Pending
from quire.errors import BackendError

logger = logging.getLogger("quire")

MOST_IN_VAIN = 2
"""So many executors are made without one good step between them; then the device is given up."""

CLOSING_S = 10.0
"""How long an executor that hangs may take to close; then it is left behind."""


class DeviceLife:
    """Holds the executor of now, and makes another where it can.

    Args:
        executor: loaded, with its KV cache. Owned from here on.
        make: another one like it, loaded, with as many KV blocks; None = there is only this one.
        step_timeout_s: longest wait for a step; 0 = any time. Devices whose steps cannot tell are waited for.

    Attributes:
        num_replaced: executors that were made in place of a broken one.
        is_sleeping: between `sleep` and `wake`.
    """

    def __init__(
        self, executor: Executor, make: Callable[[], Executor] | None = None, step_timeout_s: float = 0.0
    ) -> None:
        self.executor: Executor | None = executor
        self._make, self._step_timeout_s = make, step_timeout_s
        self._num_in_vain = 0
        self._hangs = False
        self.num_replaced = 0
        self.is_sleeping = False

    @property
    def can_be_replaced(self) -> bool:
        """Whether `replace` would make another executor."""
        return self._make is not None and self._num_in_vain < MOST_IN_VAIN

    def submit(self, batch: StepBatch) -> Pending:
        """`Executor.submit`."""
        if self.executor is None:
            raise BackendError("there is no executor", because="making one was interrupted", kind="fatal")
        return self.executor.submit(batch)

    def result_of(self, pending: Pending, step: int) -> StepResult:
        """`Pending.result`; BackendError of kind "fatal" when the step does not come in time."""
        wait = getattr(pending, "wait", None) if self._step_timeout_s else None
        if wait is not None and not wait(self._step_timeout_s):
            self._hangs = True
            raise BackendError(
                f"step {step} did not come within {self._step_timeout_s:g} s",
                because="the device hangs, or is far slower than usual",
                hint="a larger --step-timeout, if it only is slow",
                kind="fatal",
            )
        return pending.result()

    def note_good_step(self) -> None:
        """A step was done: the executor of now works."""
        self._num_in_vain = 0

    def replace(self, why: BackendError) -> None:
        """Closes the executor and makes another. Raises BackendError when there is none to be had."""
        if not self.can_be_replaced:
            reason = "nothing makes another executor" if self._make is None else "so did the executors made after it"
            raise BackendError(why.what, because=f"{why.because}; {reason}", hint=why.hint, kind="fatal")
        assert self._make is not None
        logger.error("the device is broken (%s); another executor is made, and what ran is computed again", why.what)
        self._num_in_vain += 1
        self._close_executor()
        self.executor = self._make()
        self.num_replaced += 1
        logger.warning("the device runs again")

    def sleep(self) -> None:
        """Gives the KV cache back and keeps the weights. Raises BackendError where the device cannot."""
        free_kv = getattr(self.executor, "free_kv", None)
        if free_kv is None:
            raise BackendError(
                "this device cannot give its KV cache back",
                because="its executor has no free_kv",
                hint="closing the engine, and opening it again later",
            )
        try:
            free_kv()
        except Exception as error:  # of whatever kind: a plugin may raise anything
            raise backend_error(error, "the device could not give its KV cache back") from error
        self.is_sleeping = True

    def wake(self, kv_plan: KVPlan) -> None:
        """Allocates the KV cache again. Raises BackendError when it does not fit any more; it sleeps on, then."""
        assert self.executor is not None
        try:
            self.executor.allocate_kv(kv_plan)
        except Exception as error:  # of whatever kind: a plugin may raise anything
            raise backend_error(error, "the device could not allocate its KV cache again") from error
        self.is_sleeping = False

    def close(self) -> None:
        """Closes the executor for good; one that hangs is left behind after `CLOSING_S`."""
        self._make = None
        self._close_executor()

    def _close_executor(self) -> None:
        executor, self.executor = self.executor, None
        if executor is None:
            return
        if not self._hangs:
            _close(executor)
            return
        self._hangs = False
        closing = threading.Thread(target=_close, args=(executor,), name="close-hung-executor", daemon=True)
        closing.start()
        closing.join(CLOSING_S)
        if closing.is_alive():
            logger.error("the broken executor does not close; its memory may not come back")


def _close(executor: Executor) -> None:
    try:
        executor.close()
    except Exception as error:  # of whatever kind: a plugin may raise anything, and the executor is given up anyway
        logger.warning("closing the executor failed: %s: %s", type(error).__name__, error)
