"""A limit on how often the same line of code may log: what fails a thousand times a second is said a few times."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MOST_KINDS = 512
"""So many kinds of records are remembered; the one that began first is forgotten for a new one."""

_KEY_CHARACTERS = 40


@dataclass(slots=True)
class _Window:
    start_s: float
    num_seen: int = 0


class LogLimit(logging.Filter):
    """A filter for a handler: lets `max_records` of a kind pass in `window_s` seconds, and counts the others.

        handler.addFilter(LogLimit())

    Records are of one kind when the same line of code logs them at the same level with the same first 40 characters
    of format. The last one that passes says that more will be left out; the first one after the window says how many
    were. Records below `level` always pass. Safe with threads.
    """

    def __init__(
        self,
        max_records: int = 5,
        window_s: float = 10.0,
        *,
        level: int = logging.WARNING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._max_records, self._window_s, self._level, self._clock = max_records, window_s, level, clock
        self._windows: dict[tuple[str, int, int, str], _Window] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written; may add the count to its message."""
        if record.levelno < self._level:
            return True
        key = (record.name, record.lineno, record.levelno, str(record.msg)[:_KEY_CHARACTERS])
        with self._lock:
            num_seen, num_left_out = self._count(key)
        if num_left_out:
            _append(record, f"[{num_left_out} more of these were left out]")
        if num_seen == self._max_records:
            _append(record, f"[more of these within {self._window_s:g} s are counted, not shown]")
        return num_seen <= self._max_records

    def _count(self, key: tuple[str, int, int, str]) -> tuple[int, int]:
        """(which of its window this one is, from 1; how many the window before it left out)."""
        now_s = self._clock()
        window = self._windows.get(key)
        num_left_out = 0
        if window is None or now_s - window.start_s >= self._window_s:
            if window is not None:
                num_left_out = max(0, window.num_seen - self._max_records)
                del self._windows[key]
            elif len(self._windows) >= MOST_KINDS:
                del self._windows[next(iter(self._windows))]
            window = self._windows[key] = _Window(now_s)
        window.num_seen += 1
        return window.num_seen, num_left_out


def _append(record: logging.LogRecord, text: str) -> None:
    record.msg, record.args = f"{record.getMessage()} {text}", None
