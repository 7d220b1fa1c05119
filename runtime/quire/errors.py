"""Every error Quire raises on purpose: what happened, because of what, and a hint what to do.

QuireError
├── ConfigError          the configuration cannot work (user)
├── RequestError         one request is wrong; others go on (user, HTTP 400)
├── ModelError           a checkpoint or its config.json is not what it should be (user)
├── BackendError         a device or its plugin failed or is absent
│   └── ContractError    plugin and core do not speak the same contract
└── InternalError        a bug in Quire; please report it
"""

from __future__ import annotations

import re
from typing import Literal

_MOST_CHARACTERS = 4000
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class QuireError(Exception):
    """Base of every error Quire raises on purpose.

    Args:
        what: what went wrong, with the offending name and value.
        because: the reason.
        hint: what the reader can do about it.
        try_: the name of `hint` in contract 1.1; plugins written for it still use it.

    The three often quote names and values that others wrote: each is cut after 4,000 characters, and characters that
    control a terminal, or that no encoding has, are written as escapes.
    """

    def __init__(self, what: str, *, because: str = "", hint: str = "", try_: str = "") -> None:
        self.what, self.because, self.hint = _printable(what), _printable(because), _printable(hint or try_)
        lines = [self.what]
        if self.because:
            lines.append(f"  because: {self.because}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        super().__init__("\n".join(lines))

    @property
    def try_(self) -> str:
        """`hint`, by its name in contract 1.1."""
        return self.hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.because, self.hint)


def _printable(text: str) -> str:
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), shown)


def _rebuild(kind: type[QuireError], what: str, because: str, hint: str) -> QuireError:
    return kind(what, because=because, hint=hint)


class ConfigError(QuireError):
    """The configuration cannot work."""


class RequestError(QuireError):
    """One request is invalid; the engine goes on.

    `param` names the offending field, for the API's error object.
    """

    def __init__(
        self, what: str, *, because: str = "", hint: str = "", try_: str = "", param: str | None = None
    ) -> None:
        super().__init__(what, because=because, hint=hint or try_)
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_request, (self.what, self.because, self.hint, self.param)


def _rebuild_request(what: str, because: str, hint: str, param: str | None) -> RequestError:
    return RequestError(what, because=because, hint=hint, param=param)


class ModelError(QuireError):
    """A checkpoint or its configuration is missing, unknown, unsupported or inconsistent."""


FailureKind = Literal["step", "sequence", "out_of_memory", "fatal"]


class BackendError(QuireError):
    """A device or the plugin that drives it failed or is absent.

    Args:
        kind: of an error of a step, what is broken; since contract 1.2. "step" = this step, nobody knows whose fault it
            was: its sequences are run again one by one. "sequence" = those of `sequences` only. "out_of_memory" = there
            was no room for a step of this size: it is run again once, smaller. "fatal" = the executor: it is closed,
            another is made, and what ran is computed again.
        sequences: with kind "sequence", their indices in the batch.
    """

    def __init__(
        self,
        what: str,
        *,
        because: str = "",
        hint: str = "",
        try_: str = "",
        kind: FailureKind = "step",
        sequences: tuple[int, ...] = (),
    ) -> None:
        super().__init__(what, because=because, hint=hint or try_)
        self.kind, self.sequences = kind, tuple(sequences)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_backend, (type(self), self.what, self.because, self.hint, self.kind, self.sequences)


def _rebuild_backend(
    error: type[BackendError], what: str, because: str, hint: str, kind: FailureKind, sequences: tuple[int, ...]
) -> BackendError:
    return error(what, because=because, hint=hint, kind=kind, sequences=sequences)


class ContractError(BackendError):
    """A plugin does not implement the contract that this core speaks."""


class InternalError(QuireError):
    """A bug in Quire itself; please report it."""
