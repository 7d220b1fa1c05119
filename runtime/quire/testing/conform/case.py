"""What a check is, what it can find, and how an error is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quire.testing.conform.subject import Subject

Status = Literal["passed", "failed", "gap", "unexpected pass", "not applicable"]

LEVELS = {
    "L0": "load and metadata",
    "L1": "memory",
    "L2": "ops against the reference",
    "L3": "steps of tiny models against the reference",
    "L4": "scheduling through the engine core",
    "L6": "determinism claimed = measured",
}
"""Level -> what it proves."""

LATER_LEVELS = {"L5": "serving", "L7": "soak", "L8": "share of the machine's limit"}
"""Levels that are not in this version."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check that passed has measured: its worst error and the bound on it, and a remark for people."""

    worst_error: float | None = None
    bound: float | None = None
    note: str = ""


class NotApplicableError(Exception):
    """The case cannot be run on this device, for the reason given; not a failure."""


class CheckFailedError(Exception):
    """The device does not keep the contract."""

    def __init__(self, message: str, finding: Finding | None = None) -> None:
        super().__init__(message)
        self.finding = finding or Finding()


@dataclass(frozen=True, slots=True)
class Case:
    """One check by name.

    Attributes:
        name: "LEVEL/subject/variant[/dtypes]"; gaps are patterns over it. Stable between runs.
        check: raises CheckFailedError, NotApplicableError, or anything else, which counts as a failure.
        row, column: the cell of the op x dtype table that the case belongs to, "" = none.
    """

    name: str
    check: Callable[[Subject], Finding]
    row: str = ""
    column: str = ""

    @property
    def level(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went."""

    name: str
    status: Status
    reason: str = ""
    worst_error: float | None = None
    bound: float | None = None
    row: str = ""
    column: str = ""

    @property
    def level(self) -> str:
        return self.name.partition("/")[0]


def worst_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest |a-b| / (|b| + rms(b)); infinite where only one of them is finite or the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if not actual.size:
        return 0.0
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not np.isfinite(b).all():
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    if not np.isfinite(a).all():
        return float("inf")
    scale = np.abs(b) + np.sqrt(np.mean(b * b))
    difference = np.abs(a - b)
    if not difference.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(difference > 0, difference / scale, 0.0)))


def require(condition: bool, message: str) -> None:
    """Raises CheckFailedError unless the condition holds."""
    if not condition:
        raise CheckFailedError(message)


def require_close(actual: np.ndarray, expected: np.ndarray, bound: float, what: str) -> Finding:
    """The error as a Finding; CheckFailedError where it exceeds the bound."""
    if actual.shape != expected.shape:
        raise CheckFailedError(f"{what}: shape {actual.shape}, the reference's is {expected.shape}")
    finding = Finding(worst_error(actual, expected), bound)
    if not finding.worst_error <= bound:  # type: ignore[operator]
        rows = np.flatnonzero(~np.isfinite(actual).reshape(len(actual), -1).all(axis=1))
        not_finite = f"; rows {rows[:5].tolist()} are not finite" if len(rows) else ""
        raise CheckFailedError(
            f"{what}: error {finding.worst_error:.3g}, at most {bound:.3g} is allowed{not_finite}", finding
        )
    return finding


def worst_of(findings: list[Finding]) -> Finding:
    """The finding with the largest error."""
    return max(findings, key=lambda finding: finding.worst_error or 0.0) if findings else Finding()
