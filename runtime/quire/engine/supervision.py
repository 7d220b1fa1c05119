"""What is done when an engine process ends, and when one counts as stuck."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quire.options import Count, Seconds, Text, check_options, option


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How an engine process is looked after. Raises: ConfigError that names the field."""

    on_death: Literal["restart", "exit"] = option(
        "restart",
        "what the server does when its engine process ends: another loads the same model, or the server ends with 1",
        Text(choices=("restart", "exit")),
        flag="--on-engine-death",
        is_listed=True,
    )
    max_restarts: int = option(
        3,
        "restarts within ten minutes; the server ends after more",
        Count(0),
        flag="--max-engine-restarts",
        metavar="N",
    )
    window_s: float = option(600.0, "restarts are counted within so many seconds", Seconds(least=1.0), flag="")
    health_timeout_s: float = option(
        30.0,
        "an engine that is silent for so long is not healthy",
        Seconds(least=1.0),
        flag="--health-timeout",
        metavar="SECONDS",
    )

    def __post_init__(self) -> None:
        check_options(self)


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
