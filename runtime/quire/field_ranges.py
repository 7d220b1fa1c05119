"""What a field of a request may hold: ranges as data, and the checks that turn a value into one within them.

A range fits what stands behind the field: token ids and counts are int32 on a device, seeds uint64, factors float32.
Where any larger value means the same, it is cut to the largest; everywhere else it is refused by the field's name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import RequestError

INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
FLOAT32_TINY = 2.0**-126
"""Smallest normal float32; devices may take what is smaller as 0."""

GREEDY_BELOW = 1e-5
"""Temperatures under this are taken as 0 (greedy): no float32 draw could tell them apart."""

MAX_N = 16384
"""Most sequences of one request, over all of its prompts."""

MAX_STRINGS = 1024
"""Most stop strings, and most bad words, of one request."""

MAX_STRING_CHARS = 8192
"""Most characters of all stop strings, and of all bad words, of one request. What finds them is made in the loop."""


MAX_DEPTH = 64
"""Lists and objects inside each other, in what a request hands on to a chat template."""


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """Whole numbers from low to high. is_cut: a larger one means the same as `high` and is taken as that."""

    low: int
    high: int
    is_cut: bool = False

    @property
    def text(self) -> str:
        if self.is_cut:
            return f"a whole number of at least {self.low}"
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Finite numbers with low <= value (low < value where `is_open`) and value <= high.

    A value nearer to 0 than any normal float32 is taken as 0, or as the smallest one where 0 is not in the range.
    """

    low: float
    high: float
    is_open: bool = False

    @property
    def text(self) -> str:
        return f"a finite number {'above' if self.is_open else 'at least'} {self.low:g} and at most {self.high:g}"


TOKEN_ID = IntegerRange(0, INT32_MAX)
BIAS = NumberRange(-100.0, 100.0)
INTEGER_RANGES: Mapping[str, IntegerRange] = {
    "n": IntegerRange(1, MAX_N),
    "best_of": IntegerRange(1, MAX_N),
    "max_tokens": IntegerRange(1, INT32_MAX, is_cut=True),
    "max_completion_tokens": IntegerRange(1, INT32_MAX, is_cut=True),
    "min_tokens": IntegerRange(0, INT32_MAX, is_cut=True),
    "top_k": IntegerRange(-1, INT32_MAX, is_cut=True),
    "seed": IntegerRange(INT64_MIN, 2**64 - 1),
    "logprobs": IntegerRange(-1, INT32_MAX),
    "top_logprobs": IntegerRange(0, INT32_MAX),
    "prompt_logprobs": IntegerRange(-1, INT32_MAX),
    "priority": IntegerRange(INT64_MIN, INT64_MAX),
    "stop_token_ids": TOKEN_ID,
    "allowed_token_ids": TOKEN_ID,
    "logit_bias": TOKEN_ID,
    "prompt": TOKEN_ID,
}
"""Field -> its whole numbers, or those in its list; of logit_bias, the keys."""

NUMBER_RANGES: Mapping[str, NumberRange] = {
    "temperature": NumberRange(0.0, 1e6),
    "top_p": NumberRange(0.0, 1.0, is_open=True),
    "min_p": NumberRange(0.0, 1.0),
    "presence_penalty": NumberRange(-2.0, 2.0),
    "frequency_penalty": NumberRange(-2.0, 2.0),
    "repetition_penalty": NumberRange(1e-6, 1e6),
    "logit_bias": BIAS,
}
"""Field -> its numbers; of logit_bias, the values. Their quotients stay finite and normal in float32."""


def refused(param: str, value: object, allowed: str) -> RequestError:
    """The error for a value outside its range."""
    return RequestError(
        f"{param}={shown(value)} is not allowed",
        because=f"{param} must be {allowed}",
        hint=f"a value that is {allowed}",
        param=param,
    )


def shown(value: object) -> str:
    """A value for a message: at most 80 characters, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"{'-' if value < 0 else ''}(a number of {value.bit_length()} bits)"
    if isinstance(value, (str, bytes)):
        value = value[:80]
    elif isinstance(value, (Sequence, Mapping)) and len(value) > 16:
        return f"({type(value).__name__} of {len(value)})"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits inside, or no end of nesting
        text = f"({type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_integer(param: str, value: object) -> int:
    """The whole number, cut where a larger one means the same. Raises RequestError that names `param`."""
    allowed = INTEGER_RANGES[param]
    if isinstance(value, bool):
        raise refused(param, value, allowed.text)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refused(param, value, allowed.text) from None
    if number > allowed.high and allowed.is_cut:
        return allowed.high
    if not allowed.low <= number <= allowed.high:
        raise refused(param, value, allowed.text)
    return number


def check_optional_integer(param: str, value: object) -> int | None:
    """As `check_integer`; None stays None."""
    return None if value is None else check_integer(param, value)


def check_number(param: str, value: Any) -> float:
    """The number, none that float32 would turn into infinity or a denormal. Raises RequestError naming `param`."""
    allowed = NUMBER_RANGES[param]
    if isinstance(value, (bool, str, bytes)):
        raise refused(param, value, allowed.text)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise refused(param, value, allowed.text) from None
    is_low = number <= allowed.low if allowed.is_open else number < allowed.low
    if not math.isfinite(number) or is_low or number > allowed.high:
        raise refused(param, value, allowed.text)
    if abs(number) < FLOAT32_TINY:
        return FLOAT32_TINY if allowed.is_open else 0.0
    return number


def check_strings(param: str, values: object) -> tuple[str, ...]:
    """Strings without repetitions, none empty, within MAX_STRINGS and MAX_STRING_CHARS; None is none of them."""
    if values is None:
        return ()
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise refused(param, values, "a list of strings")
    if len(values) > MAX_STRINGS:
        raise refused(param, values, f"a list of at most {MAX_STRINGS} strings")
    if not all(isinstance(value, str) and value for value in values):
        raise refused(param, values, "a list of strings, none of them empty")
    if sum(map(len, values)) > MAX_STRING_CHARS:
        raise refused(param, values, f"strings of at most {MAX_STRING_CHARS} characters together")
    return tuple(dict.fromkeys(values))


def check_token_ids(param: str, values: object) -> tuple[int, ...] | None:
    """Token ids without repetitions; None stays None. The vocabulary's end is checked where the model is known."""
    if values is None:
        return None
    if not isinstance(values, (Sequence, set, frozenset)) or isinstance(values, (str, bytes)):
        raise refused(param, values, "a list of token ids")
    return tuple(dict.fromkeys(check_integer(param, value) for value in values))


def check_bias(values: object) -> dict[int, float] | None:
    """Token id -> bias. Keys may be decimal strings, as JSON objects have them."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise refused("logit_bias", values, "a mapping from token id to a number in [-100, 100]")
    return {_token_id(key): check_number("logit_bias", value) for key, value in values.items()} or None


def _token_id(key: object) -> int:
    is_decimal = isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= len(str(INT32_MAX))
    return check_integer("logit_bias", int(key) if is_decimal else key)  # type: ignore[call-overload]


def check_depth(param: str, value: Any) -> None:
    """Raises RequestError for lists and objects nested deeper than `MAX_DEPTH`: what walks them is recursive."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _items(outer) if isinstance(item, (Mapping, list, tuple))]
        if not level:
            return
    raise RequestError(
        f"{param} is nested too deeply",
        because=f"at most {MAX_DEPTH} levels are taken",
        hint="a flatter one",
        param=param,
    )


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()
