"""Faults of the fake device: which call fails, and how."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Literal, cast, get_args

from quire.errors import BackendError, ConfigError

FakeCall = Literal[
    "create", "load", "allocate_kv", "free_kv", "warmup", "submit", "result", "read_blocks", "write_blocks", "close"
]
FaultKind = Literal["step", "sequence", "out_of_memory", "fatal", "exception", "hang"]
"""Kinds of BackendError; "exception" = a RuntimeError, as of a bug; "hang" = a call that never returns."""


class FakeFaults:
    """Counts calls, and fails those that it is told to. Executors that share one count together.

    Args:
        faults: (call, number) -> kind; numbers count the calls of that name from 0; -1 = every call.
    """

    def __init__(self, faults: Mapping[tuple[FakeCall, int], FaultKind] | None = None) -> None:
        self._faults = dict(faults or {})
        self._num_calls: Counter[str] = Counter()

    @staticmethod
    def parse(text: str) -> FakeFaults:
        """From "submit@3=fatal,result@*=step". Raises ConfigError."""
        faults: dict[tuple[FakeCall, int], FaultKind] = {}
        for word in filter(None, text.split(",")):
            call, _, rest = word.partition("@")
            number, _, kind = rest.partition("=")
            if (
                call not in get_args(FakeCall)
                or kind not in get_args(FaultKind)
                or not (number == "*" or number.isdigit())
            ):
                raise ConfigError(
                    f"fault {word!r} of the fake device",
                    because=f"it is CALL@NUMBER=KIND; calls are {', '.join(get_args(FakeCall))}; kinds are"
                    f" {', '.join(get_args(FaultKind))}",
                    hint="submit@3=fatal, or submit@*=step for every call",
                )
            faults[cast(FakeCall, call), -1 if number == "*" else int(number)] = cast(FaultKind, kind)
        return FakeFaults(faults)

    def take(self, call: FakeCall) -> FaultKind | None:
        """How the call that now comes is to fail."""
        number = self._num_calls[call]
        self._num_calls[call] += 1
        return self._faults.get((call, number), self._faults.get((call, -1)))

    def meet(self, call: FakeCall) -> None:
        """Raises what is to befall the call that now comes."""
        kind = self.take(call)
        if kind == "hang":
            threading.Event().wait()  # for ever: nothing in this process can end it
        if kind is not None:
            raise fault_error(kind, call)


def fault_error(kind: FaultKind, call: FakeCall) -> Exception:
    """What a call of this fault raises."""
    if kind == "exception":
        return RuntimeError(f"an injected bug in {call}")
    because = "an injected failure"
    if kind == "sequence":
        return BackendError(f"{call} failed for a sequence", because=because, kind="sequence", sequences=(0,))
    return BackendError(f"{call} failed on the device", because=because, kind="fatal" if kind == "hang" else kind)
