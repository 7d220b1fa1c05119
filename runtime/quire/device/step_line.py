"""The line of submitted steps that every executor keeps: how deep it is, in which order it is read, who feeds whom.

An executor says how a step is started (`StartStep`) and how its result is read (`StartedStep.finish`). All else that
the contract asks of `Executor.submit` and `Pending.result` is here, once:

- no more unread steps than `async_depth`;
- results are made in the order of submission, whatever the order in which they are asked for;
- a token id of -1 becomes the token that the step before drew: on the device where that step left its tokens there,
  else here, after reading it;
- whatever starting or finishing raises comes out of `result`, as BackendError, and names device and step;
- a call that an interrupt ends (KeyboardInterrupt) leaves no step that nobody will read;
- a step without tokens does nothing, and reaches no device;
- closing drops the steps that nobody has read, and they say so.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from quire.device.backend_errors import backend_error
from quire.device.batch import StepBatch, StepResult, token_indices
from quire.errors import BackendError, InternalError
from quire.sampling.batch import I32

logger = logging.getLogger("quire")


class StartedStep(Protocol):
    """A step on its way on the device."""

    @property
    def tokens(self) -> Any | None:
        """What the next step is fed from on the device, such as int32 [R] there; None = the result alone has them."""

    def finish(self) -> StepResult:
        """Waits for the device and returns the result. Whatever it raises becomes the step's BackendError.

        A step may also have `wait(timeout_s: float) -> bool`, which says whether it is done by then; without it, a step
        that never comes is seen from outside the process only.
        """


StartStep = Callable[[StepBatch, Any], StartedStep]
"""start(batch, tokens) starts a step without waiting for it.

`tokens` are the `StartedStep.tokens` of the step before; then the batch may hold token ids of -1, which stand for them
by the rows that `fed_places` gives. When `tokens` is None the batch holds no -1.
"""


def fed_places(batch: StepBatch) -> tuple[I32, I32]:
    """Where token ids are -1, int32 [n], and the row of the step before that each stands for, int32 [n].

    Raises InternalError where a sequence has no row there.
    """
    places = np.flatnonzero(batch.token_ids < 0).astype(np.int32)
    rows = batch.prev_row[token_indices(batch)[0][places]]
    if (rows < 0).any():
        raise InternalError(f"step {batch.step}: a token id of -1 has no row in the step before")
    return places, rows


def with_tokens(batch: StepBatch, drawn: I32) -> StepBatch:
    """The batch with each token id of -1 replaced by what its row of the step before drew.

    NO_TOKEN and NOT_FINITE become 0: that request is ending, its row only has to run. Raises InternalError where a
    sequence has no such row.

    Args:
        drawn: int32 [R of the step before].
    """
    places, rows = fed_places(batch)
    if len(places) == 0:
        return batch
    if rows.max() >= len(drawn):
        raise InternalError(f"step {batch.step}: a token id of -1, and the step before gave no token for it")
    token_ids = batch.token_ids.copy()
    token_ids[places] = np.maximum(drawn[rows], 0)
    return replace(batch, token_ids=token_ids)


class StepLine:
    """The steps of one executor that were submitted and not read, oldest first.

    Args:
        device: its name, for messages.
        async_depth: most steps that may be unread at a time.
        start: starts one step.
    """

    def __init__(self, device: str, async_depth: int, start: StartStep) -> None:
        self._device, self._async_depth, self._start = device, async_depth, start
        self._unfinished: deque[PendingStep] = deque()
        self._unread: list[PendingStep] = []
        self._previous: PendingStep | None = None
        self._closed = False

    def submit(self, batch: StepBatch) -> PendingStep:
        """Starts a step, and returns without waiting unless it needs tokens that only a result has.

        Raises: BackendError when the executor is closed; InternalError over `async_depth` unread steps. Everything
            else that goes wrong is raised by the step's `result`.
        """
        self.refuse_closed()
        if len(self._unread) >= self._async_depth:
            raise InternalError(
                f"step {batch.step} was submitted over {len(self._unread)} unread ones",
                because=f"async_depth is {self._async_depth}",
            )
        step = PendingStep(self, batch.step)
        try:
            step.start(self._start(*self._fed(batch)) if batch.num_tokens or batch.copies else _EmptyStep())
        except Exception as error:  # whatever a device raises, it is this step's
            step.fail(error, self._device)
        self._unfinished.append(step)
        self._previous = step
        self._unread.append(step)  # last: an interrupted call leaves no step that nobody will read
        return step

    def read(self, step: PendingStep) -> StepResult:
        """The result of a step, after those before it; raises its BackendError."""
        self._finish_through(step)
        if step in self._unread:
            self._unread.remove(step)
        return step.outcome()

    def wait(self, step: PendingStep, timeout_s: float) -> bool:
        """Whether the step, and those before it, are done within so many seconds; True where nobody can tell."""
        end_s = time.monotonic() + timeout_s
        if step not in self._unfinished:
            return True
        for other in self._unfinished:
            if not other.is_done(max(0.0, end_s - time.monotonic())):
                return False
            if other is step:
                break
        return True

    def finish_all(self) -> None:
        """Waits for every submitted step; each keeps its result, or its error, until it is read."""
        if self._unfinished:
            self._finish_through(self._unfinished[-1])

    def refuse_closed(self) -> None:
        """Raises BackendError after `close`."""
        if self._closed:
            raise BackendError(f"the executor of device {self._device} is closed")

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Drops what was not read; safe to call twice."""
        self._closed = True
        for step in self._unfinished:
            step.drop()
        self._unfinished.clear()
        self._unread.clear()
        self._previous = None

    def _finish_through(self, last: PendingStep) -> None:
        while last in self._unfinished:
            self._unfinished[0].finish(self._device)
            self._unfinished.popleft()

    def _fed(self, batch: StepBatch) -> tuple[StepBatch, Any]:
        """What `start` takes: with the tokens of the step before, or with token ids filled in here."""
        previous = self._previous
        if previous is not None and previous.tokens is not None:
            return batch, previous.tokens
        if len(batch.token_ids) == 0 or batch.token_ids.min() >= 0:
            return batch, None
        fed_places(batch)  # raises for a sequence without a row before anything is waited for
        if previous is None:
            raise InternalError(f"step {batch.step}: a token id of -1, and there was no step before")
        self._finish_through(previous)
        return with_tokens(batch, previous.outcome().tokens[:, 0]), None


class _EmptyStep:
    """A step without tokens; a `StartedStep`."""

    tokens = None

    def finish(self) -> StepResult:
        return StepResult(np.empty((0, 1), np.int32), np.empty(0, np.int32))


class PendingStep:
    """A submitted step; implements `quire.device.Pending`.

    Attributes:
        tokens: `StartedStep.tokens`, for the step after this one.
    """

    def __init__(self, line: StepLine, number: int) -> None:
        self._line, self._number = line, number
        self._started: StartedStep | None = None
        self._result: StepResult | None = None
        self._error: BackendError | None = None
        self.tokens: Any | None = None

    def result(self) -> StepResult:
        """Waits for the step and returns its result; raises BackendError when it failed."""
        return self._line.read(self)

    def wait(self, timeout_s: float) -> bool:
        """Whether the result is there within so many seconds; True where the device cannot tell. Since contract 1.2."""
        return self._line.wait(self, timeout_s)

    # ---- called by StepLine ----------------------------------------------------------------------------

    def start(self, started: StartedStep) -> None:
        """Takes what the executor started."""
        self._started, self.tokens = started, started.tokens

    def is_done(self, timeout_s: float) -> bool:
        """Whether this step alone is done by then."""
        wait = getattr(self._started, "wait", None)
        return True if wait is None else bool(wait(timeout_s))

    def finish(self, device: str) -> None:
        """Waits, and keeps the result or the error."""
        if self._started is None:
            return
        try:
            self._result = self._started.finish()
        except Exception as error:  # whatever a device raises, it is this step's
            self.fail(error, device)
        self._started = None

    def fail(self, error: Exception, device: str) -> None:
        """Keeps the error for `result`."""
        self._error = step_error(error, device, self._number)

    def drop(self) -> None:
        """The executor was closed before the step was read."""
        if self._started is not None:
            self._error = BackendError(f"step {self._number} was dropped", because="the executor was closed before")
            self._started = None

    def outcome(self) -> StepResult:
        """What `finish` kept."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise InternalError(f"step {self._number} has no result", because="it was never finished")
        return self._result


def step_error(error: Exception, device: str, step: int) -> BackendError:
    """What a step raised, as the BackendError that names device and step; its traceback is logged at level debug."""
    if not isinstance(error, BackendError):
        logger.debug("step %d failed on device %s", step, device, exc_info=error)
    return backend_error(
        error,
        f"step {step} failed on device {device}",
        f"--log-level debug shows where; quire conform --device {device}",
    )
