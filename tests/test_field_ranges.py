"""Ranges of numbers: what fits int32, int64 and float32 behind a field, what is cut and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.errors import RequestError
from quire.field_ranges import (
    FLOAT32_TINY,
    INT32_MAX,
    INTEGER_RANGES,
    MAX_STRING_CHARS,
    NUMBER_RANGES,
    check_bias,
    check_integer,
    check_number,
    check_strings,
    shown,
)

HUGE = [2**31, 2**32 + 5, 2**63, 10**30, 10**5000]


def outcome(check: Callable[[str, Any], float], name: str, value: Any) -> float | None:
    """What a value is taken as, or None when it is refused by the field's name in a short message."""
    refusal: RequestError | None = None
    try:
        return check(name, value)
    except RequestError as error:
        refusal = error
    assert refusal.param == name
    assert len(str(refusal)) < 400
    return None


@pytest.mark.parametrize("name", INTEGER_RANGES)
def test_whole_numbers_fit_or_are_refused_by_name(name: str) -> None:
    allowed = INTEGER_RANGES[name]
    for value in (*HUGE, *(-number for number in HUGE), allowed.low - 1, allowed.high + 1):
        taken = outcome(check_integer, name, value)
        if allowed.low <= value <= allowed.high:
            assert taken == value
        else:
            assert taken == (allowed.high if allowed.is_cut and value > 0 else None)
    for edge in (allowed.low, allowed.high):
        assert check_integer(name, edge) == edge


@pytest.mark.parametrize("name", NUMBER_RANGES)
def test_numbers_stay_finite_and_normal_in_float32(name: str) -> None:
    for value in (1e300, -1e300, 1e-300, -1e-300, 1e40, 1e-40, 5e-324, 1e38, 10**400, math.inf, math.nan, 0, 1):
        taken = outcome(check_number, name, value)
        if taken is not None:
            assert math.isfinite(np.float32(taken))
            assert taken == 0 or abs(np.float32(taken)) >= np.float32(FLOAT32_TINY)


def test_top_p_never_becomes_nothing() -> None:
    assert check_number("top_p", 1e-300) == FLOAT32_TINY


@pytest.mark.parametrize("key", ["1" * 5000, "٣", "-1", "1.0", " 1", "", str(INT32_MAX + 1), 2**40])
def test_keys_of_logit_bias_are_token_ids(key: Any) -> None:
    with pytest.raises(RequestError) as caught:
        check_bias({key: 1.0})
    assert caught.value.param == "logit_bias"


def test_lists_of_strings_are_bounded() -> None:
    with pytest.raises(RequestError, match="at most"):
        check_strings("stop", [str(number) for number in range(5000)])


@pytest.mark.parametrize(
    "value",
    [10**5000, [10**5000], "a" * 10**6, list(range(10**5)), {"a": [[["b"]]]}, b"x" * 999],
    ids=lambda value: type(value).__name__,
)
def test_what_an_error_shows_is_short(value: Any) -> None:
    assert len(shown(value)) <= 90


def test_strings_have_a_length_together() -> None:
    assert check_strings("stop", ["a" * (MAX_STRING_CHARS - 1), "b"])
    with pytest.raises(RequestError, match=f"at most {MAX_STRING_CHARS} characters") as caught:
        check_strings("stop", ["a" * MAX_STRING_CHARS, "b"])
    assert caught.value.param == "stop"
    assert len(str(caught.value)) < 400
