"""How far logits may be from the reference's, from an error model: measured on the reference itself, not guessed.

The reference runs the same lines in a plan's dtypes and in float32 activations with a float32 cache; the difference is
what rounding does to this model in these dtypes. Two implementations that round independently differ by sqrt(2) times
as much in the rms, and where their largest errors meet by twice as much; those that round where the reference does, by
less. Where only the cache is coarse, both round numbers
that agree to float32, and only those on an edge come out differently: half of it is allowed. Float32 throughout has no
better run beside it: its bound is a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quire.testing.conform.case import CheckFailedError, Finding, require_close, worst_error
from quire.testing.conform.lines import Lines
from quire.testing.conform.subject import Dtypes, reference_driver
from quire.testing.conform.tiny_models import reference_plan, tiny_model

FLOAT32_BOUND = 5e-5
"""Of the worst logit, in float32 throughout: orders of additions differ, roundings do not."""

_INDEPENDENT_WORST, _INDEPENDENT_RMS, _ON_EDGES = 2.0, math.sqrt(2), 0.5


@dataclass(frozen=True, slots=True)
class LogitBound:
    """What is allowed: `worst` of |a-b| / (|b| + rms(b)), and `rms` of rms(a-b) / rms(b) over the rows of a line.

    A wrong term shows in many logits, so the second finds in 16 bits what the first lets pass.
    """

    worst: float
    rms: float


@lru_cache(maxsize=64)
def expected_logits(family: str, dtypes: Dtypes, line: tuple[int, ...]) -> np.ndarray:
    """The reference's logits of every token of a line, float32 [tokens, VOCAB]."""
    with reference_driver(reference_plan(family, dtypes), tiny_model(family).weights()) as driver:
        sequence = driver.line(line)
        driver.run([(sequence, len(line))])
        return sequence.all_logits()


@lru_cache(maxsize=64)
def logit_bound(family: str, dtypes: Dtypes, line: tuple[int, ...] = ()) -> LogitBound:
    """The bound for a model in these dtypes: from the prompts of L3, and from `line` where it is the one in question.

    Rounding does more to some tokens than to others, and by how much shows on the reference running the same tokens.
    """
    exact = Dtypes("float32", dtypes.weight, "float32")
    lines = (*Lines(family, dtypes.weight).prompts(), *((line,) if line else ()))
    pairs = (
        [(expected_logits(family, dtypes, tokens), expected_logits(family, exact, tokens)) for tokens in lines]
        if dtypes != exact
        else []
    )
    worst = max((worst_error(rounded, right) for rounded, right in pairs), default=0.0)
    rms = max((rms_error(rounded, right) for rounded, right in pairs), default=0.0)
    worst_share, rms_share = _INDEPENDENT_WORST, _INDEPENDENT_RMS
    if dtypes.act == "float32":
        worst_share = rms_share = _ON_EDGES
    return LogitBound(max(FLOAT32_BOUND, worst_share * worst), max(FLOAT32_BOUND, rms_share * rms))


def rms_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """rms(a-b) / rms(b)."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b * b)))


def require_logits(actual: np.ndarray, expected: np.ndarray, bound: LogitBound, what: str) -> Finding:
    """The worst error as a Finding; CheckFailedError where logits [rows, vocab] exceed the bound in either sense."""
    finding = require_close(actual, expected, bound.worst, what)
    rms = rms_error(actual, expected)
    if not rms <= bound.rms:
        raise CheckFailedError(f"{what}: rms error {rms:.3g}, at most {bound.rms:.3g} is allowed", finding)
    return finding
