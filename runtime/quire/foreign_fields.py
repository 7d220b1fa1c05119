"""Fields of OpenAI's and vLLM's interfaces that Quire does not have, and what becomes of each.

Two kinds: a field that changes no answer is taken, and said once in the log; a field that would change it is
refused by name, unless its value means the same as leaving it out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from quire.field_ranges import shown

logger = logging.getLogger("quire")

_said: set[str] = set()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ForeignField:
    """One field.

    Attributes:
        kind: "ignored" = taken, without effect; "refused" = would change the answer.
        reason: why, as the log line or the error says it.
        neutral: values that mean the same as leaving it out; null always does.
        example: a value that is not neutral, as a client might send it.
        origin: whose field it is: "OpenAI", "vLLM" or "both".
        hint: what to do instead of a refused one; "" = leaving it out.
    """

    kind: Literal["ignored", "refused"]
    reason: str
    neutral: tuple[Any, ...] = ()
    example: Any = True
    origin: Literal["OpenAI", "vLLM", "both"] = "vLLM"
    hint: str = ""


def ignored(
    reason: str, *neutral: Any, example: Any = True, origin: Literal["OpenAI", "vLLM", "both"] = "vLLM"
) -> ForeignField:
    """A field that is taken without effect."""
    return ForeignField("ignored", reason, neutral, example, origin)


def refused(
    reason: str, *neutral: Any, example: Any = True, origin: Literal["OpenAI", "vLLM", "both"] = "vLLM", hint: str = ""
) -> ForeignField:
    """A field that only its neutral values may have."""
    return ForeignField("refused", reason, neutral, example, origin, hint)


def first_refused(table: Mapping[str, ForeignField], values: Mapping[str, Any], where: str) -> str | None:
    """The first name in `values` whose value is refused, None when all are taken.

    A field of the "ignored" kind whose value is not neutral is said once per process; `where` says whose it is.
    """
    for name, value in values.items():
        spec = table.get(name)
        if spec is None or value is None or _is_neutral(value, spec.neutral):
            continue
        if spec.kind == "refused":
            return name
        say_once(f"{name} of {where} is taken and has no effect: {spec.reason}")
    return None


def say_once(text: str) -> None:
    """Logs a line the first time it is said in this process.

    The line is the record's format, so that a limit on records of one kind takes each for a kind of its own.
    """
    with _lock:
        is_new = text not in _said
        _said.add(text)
    if is_new:
        logger.warning(text)


def refusal_text(name: str, value: object, spec: ForeignField) -> tuple[str, str, str]:
    """(what, because, try) of the error for a refused field."""
    return f"{name}={shown(value)} is not supported", spec.reason, spec.hint or f"leaving {name} out"


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equality that keeps True and 1 apart, but not 1 and 1.0; an enum's member counts as its value."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return any(value is other for other in neutral)
    if isinstance(value, (int, float)):
        return any(not isinstance(other, bool) and value == other for other in neutral)
    return any(type(value) is type(other) and value == other for other in neutral)
