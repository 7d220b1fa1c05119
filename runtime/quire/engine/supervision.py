"""What is done when an engine process ends, and when one counts as stuck."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quire.errors import ConfigError
from quire.field_ranges import INT32_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How an engine process is looked after.

    Attributes:
        on_death: "restart" = another process loads the same model; "exit" = the engine is gone for good.
        max_restarts: most restarts within `window_s` seconds; a death after that is for good.
        health_timeout_s: after so many seconds without a sign of life the engine counts as stuck.
    Raises: ConfigError that names the field.
    """

    on_death: Literal["restart", "exit"] = "restart"
    max_restarts: int = 3
    window_s: float = 600.0
    health_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.on_death not in ("restart", "exit"):
            raise ConfigError(
                f"on_death={self.on_death!r}",
                because="it is what to do when the engine process ends",
                hint="restart or exit",
            )
        if type(self.max_restarts) is not int or not 0 <= self.max_restarts <= INT32_MAX:
            raise ConfigError(
                f"max_restarts={self.max_restarts!r}",
                because="it is a count",
                hint=f"a whole number of 0 to {INT32_MAX}",
            )
        for name in ("window_s", "health_timeout_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
                raise ConfigError(f"{name}={value!r}", because="it is a time in seconds", hint="a number of at least 1")


class RestartLimit:
    """Counts restarts within a sliding window."""

    def __init__(self, supervision: Supervision, clock: Callable[[], float] = time.monotonic) -> None:
        self._supervision, self._clock = supervision, clock
        self._times_s: deque[float] = deque()

    def take(self) -> int:
        """Which restart within the window this one is, from 1; 0 when there may be no more."""
        now_s = self._clock()
        while self._times_s and now_s - self._times_s[0] >= self._supervision.window_s:
            self._times_s.popleft()
        if self._supervision.on_death == "exit" or len(self._times_s) >= self._supervision.max_restarts:
            return 0
        self._times_s.append(now_s)
        return len(self._times_s)
