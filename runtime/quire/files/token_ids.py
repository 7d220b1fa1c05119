"""Token ids as the files beside a checkpoint write them."""

from __future__ import annotations

import math
from typing import Any

from quire.errors import ModelError

_MOST = 2**31 - 1


def end_tokens(value: Any, where: str) -> list[int | str]:
    """The tokens that an `eos_token_id` names: ids, and texts of tokens, which only a tokenizer can tell the ids of.

    One or a list of them; null and -1 name none. Whole floats (2.0) and texts of digits ("2") are ids.
    Raises ModelError, calling the file `where`, for anything else.
    """
    values = value if isinstance(value, list) else [value]
    found = [_end_token(item, where) for item in values if item is not None and item != -1]
    return list(dict.fromkeys(found))


def _end_token(value: Any, where: str) -> int | str:
    if isinstance(value, str) and value and not _is_digits(value):
        return value
    if isinstance(value, str) and _is_digits(value):
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ModelError(
            f"{where}: eos_token_id={value!r:.100}",
            hint="mending the file",
            because="a token's id or text, or a list of them, is expected there",
        )
    return value


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
