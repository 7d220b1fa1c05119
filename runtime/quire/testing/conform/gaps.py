"""Declared gaps: what a backend is known not to do yet, each with a reason. They are strict: a mended one must go.

A plugin declares them as `QUIRE_CONFORMANCE_GAPS = {"L2/experts/*": "no grouped kernel yet"}`; a JSON file of the
same form adds to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from quire.errors import ConfigError
from quire.testing.conform.case import CaseResult


def read_gaps(path: Path) -> dict[str, str]:
    """Pattern -> reason from a JSON file. Raises ConfigError where it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"gaps file {path} cannot be read", because=str(error)) from error
    checked_gaps(value, str(path))
    return dict(value)


def checked_gaps(value: object, where: str) -> None:
    """Raises ConfigError unless the value maps case patterns to reasons."""
    good = isinstance(value, Mapping) and all(
        isinstance(pattern, str) and isinstance(reason, str) and reason.strip() for pattern, reason in value.items()
    )
    if not good:
        raise ConfigError(
            f"gaps of {where} are not case patterns with reasons",
            because='they look like {"L2/experts/*": "no grouped kernel yet"}',
        )


def with_gaps(result: CaseResult, gaps: Mapping[str, str]) -> CaseResult:
    """The result as a declared gap sees it: a failure is expected, a pass is not."""
    reasons = [reason for pattern, reason in gaps.items() if fnmatchcase(result.name, pattern)]
    if not reasons or result.status == "not applicable":
        return result
    if result.status == "passed":
        return replace(result, status="unexpected pass", reason=f"a gap is declared for it ({reasons[0]}); take it out")
    return replace(result, status="gap", reason=f"{reasons[0]} [{result.reason}]")


def unused_gaps(gaps: Mapping[str, str], results: Iterable[CaseResult], levels: Iterable[str]) -> list[CaseResult]:
    """A failure for every pattern of the levels that were run which no case has."""
    names = [result.name for result in results]
    run = tuple(levels)
    return [
        CaseResult(f"{pattern.partition('/')[0]}/gaps/{pattern}", "failed", "this declared gap matches no case")
        for pattern in gaps
        if pattern.partition("/")[0] in run and not any(fnmatchcase(name, pattern) for name in names)
    ]
