"""Runs levels on a device and collects what came of every case."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from quire.errors import ConfigError, QuireError
from quire.testing.conform.case import (
    LATER_LEVELS,
    LEVELS,
    Case,
    CaseResult,
    CheckFailedError,
    Finding,
    NotApplicableError,
    Status,
)
from quire.testing.conform.gaps import checked_gaps, unused_gaps, with_gaps
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.report import Report
from quire.testing.conform.subject import Subject

Progress = Callable[[CaseResult], None]


def run_conformance(
    subject: Subject,
    levels: Sequence[str] = tuple(LEVELS),
    *,
    seed: int = 0,
    gaps: Mapping[str, str] | None = None,
    op_cases: Iterable[OpCase] = (),
    progress: Progress = lambda result: None,
) -> Report:
    """Every case of the levels.

    Args:
        seed: of drawn shapes and of operands.
        gaps: case pattern -> reason, in addition to the plugin's own.
        op_cases: further cases of L2.
        progress: called with every result as it comes.
    Raises: ConfigError for a level that does not exist.
    """
    _check_levels(levels)
    all_gaps = {**subject.gaps, **(gaps or {})}
    checked_gaps(all_gaps, subject.name)
    results: list[CaseResult] = []
    for level in dict.fromkeys(levels):
        for case in _cases(level, subject, seed, tuple(op_cases)):
            result = with_gaps(run_case(case, subject), all_gaps)
            results.append(result)
            progress(result)
    results += unused_gaps(all_gaps, results, levels)
    return Report(subject, tuple(dict.fromkeys(levels)), seed, tuple(results), all_gaps)


def run_case(case: Case, subject: Subject) -> CaseResult:
    """How one case goes; whatever it raises is its result."""
    status, finding = _outcome(case, subject)
    return CaseResult(case.name, status, finding.note, finding.worst_error, finding.bound, case.row, case.column)


def _outcome(case: Case, subject: Subject) -> tuple[Status, Finding]:
    try:
        return "passed", case.check(subject)
    except NotApplicableError as reason:
        return "not applicable", Finding(note=str(reason))
    except CheckFailedError as failure:
        return "failed", replace(failure.finding, note=str(failure))
    except QuireError as error:
        return "failed", Finding(note=f"{type(error).__name__}: {' '.join(str(error).split())}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", Finding(note=f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})")


def level_cases(subject: Subject, levels: Sequence[str] = tuple(LEVELS), seed: int = 0) -> Iterator[Case]:
    """The cases themselves, for test runners."""
    _check_levels(levels)
    for level in levels:
        yield from _cases(level, subject, seed, ())


def _cases(level: str, subject: Subject, seed: int, op_cases: tuple[OpCase, ...]) -> Iterator[Case]:
    """Levels are imported as they are run: L4 needs the engine, the others do not."""
    if level == "L0":
        from quire.testing.conform.load import load_level

        return load_level(subject)
    if level == "L2":
        from quire.testing.conform.ops import op_level

        return op_level(subject, seed, op_cases)
    if level == "L3":
        from quire.testing.conform.steps import step_level

        return step_level(subject)
    if level == "L1":
        from quire.testing.conform.memory import memory_level

        return memory_level(subject)
    if level == "L4":
        from quire.testing.conform.scheduling import scheduling_level

        return scheduling_level(subject)
    from quire.testing.conform.determinism import determinism_level

    return determinism_level(subject)


def _check_levels(levels: Sequence[str]) -> None:
    for level in levels:
        if level in LATER_LEVELS:
            raise ConfigError(
                f"level {level} ({LATER_LEVELS[level]})",
                because="it is not in this version",
                hint=f"one of {', '.join(LEVELS)}",
            )
        if level not in LEVELS:
            raise ConfigError(f"level {level!r}", because=f"levels are {', '.join(LEVELS)}")
