"""SIGTERM and SIGHUP end a command as an exit does: what is open is closed, and nothing is said."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def exit_on_termination() -> None:
    """From now on these signals raise SystemExit(128 + number); one that is ignored, as under nohup, stays so."""
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
