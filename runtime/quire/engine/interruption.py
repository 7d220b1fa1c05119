"""Ctrl-C and its kin wait for the end of a step: what a signal's handler raises may not leave one half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGALRM", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Signals for which programs have handlers that raise."""


@contextmanager
def signals_wait() -> Iterator[None]:
    """Handlers written in Python run after the block instead of inside it, in the order in which signals came.

    Python calls them on the main thread only, between any two of its instructions; on other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    waits = True

    def remember(number: int, frame: FrameType | None) -> None:
        if waits:
            came.append((number, frame))
        else:  # one handler raised while the others were put back: this one still stands in for its own
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, remember)
        yield
    finally:
        waits = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)
