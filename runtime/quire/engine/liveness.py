"""Whether an engine process that should be heard from twice a second still moves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

HEARTBEAT_S = 0.5
"""How often an engine's loop says that it turns, between its steps."""

WORKING_FACTOR = 4
"""So many timeouts a step may take that computes; one that only waits has one."""

_WORKING_SHARE = 0.1
"""Of one core, from which on a process counts as computing."""


class Liveness:
    """Judges one process by what it sends, and when it is silent, by whether it computes.

    A long step says nothing until it ends. As long as it uses the processor it may take `WORKING_FACTOR` timeouts;
    a process that is stopped, or whose threads wait for each other, does not compute and has one.

    Args:
        cpu_time_s: the processor time that the process has used; None where the system does not tell.
    """

    def __init__(
        self, timeout_s: float, cpu_time_s: Callable[[], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s, self._cpu_time_s, self._clock = timeout_s, cpu_time_s, clock
        self._heard_s = self._worked_s = self._looked_s = clock()
        self._cpu_s = cpu_time_s()

    @property
    def interval_s(self) -> float:
        """How often `look` is to be called."""
        return min(1.0, self._timeout_s / 8)

    def hear(self) -> None:
        """A message came."""
        self._heard_s = self._clock()

    def look(self) -> None:
        """Notes whether the process computed since the last look."""
        self._forgive_own_absence()
        now_s, cpu_s = self._clock(), self._cpu_time_s()
        elapsed_s = now_s - self._looked_s
        if cpu_s is not None and self._cpu_s is not None and cpu_s - self._cpu_s >= _WORKING_SHARE * elapsed_s > 0:
            self._worked_s = now_s
        self._looked_s, self._cpu_s = now_s, cpu_s

    def stuck_s(self) -> float:
        """For how long it has been silent, in seconds, when that is too long; else 0."""
        self._forgive_own_absence()
        now_s = self._clock()
        silent_s = now_s - self._heard_s
        is_working = now_s - self._worked_s <= self._timeout_s / 2
        if silent_s <= self._timeout_s * (WORKING_FACTOR if is_working else 1):
            return 0.0
        return silent_s

    def _forgive_own_absence(self) -> None:
        """When nobody looked for long, this process was stopped or busy itself: its messages wait to be read."""
        now_s = self._clock()
        if now_s - self._looked_s > max(self._timeout_s / 2, 3 * self.interval_s):
            self._heard_s = self._looked_s = now_s
            self._cpu_s = self._cpu_time_s()


def process_cpu_time_s(pid: int) -> float | None:
    """Processor time of a process, in seconds; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None  # the process has just ended, or another operating system
