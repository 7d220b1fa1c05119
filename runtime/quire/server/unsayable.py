"""Which field of a body holds what JSON has no words for, though Python's encoder writes it: NaN, half a character."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

MAX_BYTES = 1 << 16
"""Of a body that is looked at a second time, for the sake of a better word."""


def unsayable_field(content: bytes) -> tuple[str, str] | None:
    """(field, what it holds) of a body that no parser of JSON takes; None where that is not the reason."""
    if len(content) > MAX_BYTES:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    fields = value.items() if isinstance(value, Mapping) else ()
    return next(((name, found) for name, item in fields if (found := _unsayable(item)) is not None), None)


def _unsayable(value: Any) -> str | None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return "NaN, or a number beyond every float"
        if isinstance(item, str) and not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
            return "half of a UTF-16 surrogate pair"
        if isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
    return None
