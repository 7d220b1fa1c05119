"""What a run found: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quire import __version__
from quire.testing.conform.case import LATER_LEVELS, LEVELS, CaseResult, Status
from quire.testing.conform.op_draws import hypothesis_version
from quire.testing.conform.subject import Subject

SCHEMA_VERSION = 1
"""Of the JSON; raised when a field changes its meaning or goes."""

_BAD: tuple[Status, ...] = ("failed", "unexpected pass")
_STATUSES: tuple[Status, ...] = ("passed", "failed", "gap", "unexpected pass", "not applicable")


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run, in the order in which the cases ran."""

    subject: Subject
    levels: tuple[str, ...]
    seed: int
    results: tuple[CaseResult, ...]
    gaps: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """No undeclared failure, no gap that passes, and something was run."""
        return not self.problems() and any(result.status == "passed" for result in self.results)

    def problems(self) -> tuple[CaseResult, ...]:
        """Failures that no gap declares, and gaps that pass."""
        return tuple(result for result in self.results if result.status in _BAD)

    def of(self, level: str) -> tuple[CaseResult, ...]:
        """Results of one level."""
        return tuple(result for result in self.results if result.level == level)

    def as_json(self) -> dict[str, Any]:
        """Stable for one device, seed and version: sorted, without times. What may differ stands under "run"."""
        capabilities = self.subject.capabilities
        return {
            "schema": SCHEMA_VERSION,
            "device": self.subject.name,
            "contract": list(capabilities.contract),
            "determinism": capabilities.row_determinism,
            "seed": self.seed,
            "levels": {level: _counts(self.of(level)) for level in sorted(self.levels)},
            "not_in_this_version": dict(sorted(LATER_LEVELS.items())),
            "passed": self.passed,
            "gaps": dict(sorted(self.gaps.items())),
            "cases": [_case_json(result) for result in sorted(self.results, key=lambda result: result.name)],
            "run": {
                "quire": __version__,
                "package": self.subject.package,
                "hardware": self.subject.report.name,
                "driver": self.subject.report.driver,
                "hypothesis": hypothesis_version() or "",
                "options": dict(sorted(self.subject.options.items())),
            },
        }

    def json_text(self) -> str:
        """`as_json` as text with a newline at the end."""
        return json.dumps(self.as_json(), indent=1, sort_keys=True) + "\n"

    def lines(self) -> Iterator[str]:
        """The tables for people."""
        subject = self.subject
        yield f"{subject.name}: {subject.report.name}, {subject.package or 'not installed'}, seed {self.seed}"
        yield ""
        yield f"{'level':<48}{'cases':>6}{'passed':>8}{'failed':>8}{'gaps':>6}{'n/a':>6}{'worst/bound':>13}"
        for level in self.levels:
            results = self.of(level)
            counts = Counter(result.status for result in results)
            bad = counts["failed"] + counts["unexpected pass"]
            yield (
                f"{level + ' ' + LEVELS[level]:<48}{len(results):>6}{counts['passed']:>8}{bad:>8}{counts['gap']:>6}"
                f"{counts['not applicable']:>6}{_share_text(results):>13}"
            )
        for level, what in LATER_LEVELS.items():
            yield f"{level + ' ' + what:<48}{'not in this version':>47}"
        yield from self._error_table()
        yield from _listed("not applicable", self.results, ("not applicable",))
        yield from _listed("declared gaps", self.results, ("gap",))
        yield from _listed("problems", self.results, _BAD)
        yield ""
        proven = [level for level in self.levels if any(result.status == "passed" for result in self.of(level))]
        empty = [level for level in self.levels if level not in proven]
        verdict = "conforms" if self.passed else "DOES NOT CONFORM"
        yield f"{subject.name} {verdict} on {', '.join(proven if self.passed else self.levels)}"
        if empty:
            yield f"nothing is proven on {', '.join(empty)}: no case passed there"

    def _error_table(self) -> Iterator[str]:
        """Worst error of each op and dtypes, as measured."""
        cells: dict[tuple[str, str], float] = {}
        for result in self.results:
            if result.row and result.column and result.worst_error is not None:
                key = (result.row, result.column)
                cells[key] = max(cells.get(key, 0.0), result.worst_error)
        if not cells:
            return
        columns = sorted({column for _, column in cells})
        yield ""
        yield "worst error, |a-b| / (|b| + rms(b)), by activation dtype"
        yield f"{'':<24}" + "".join(f"{column:>12}" for column in columns)
        for row in sorted({row for row, _ in cells}):
            values = [f"{cells[row, column]:.1e}" if (row, column) in cells else "" for column in columns]
            yield f"{row:<24}" + "".join(f"{value:>12}" for value in values)


def _counts(results: tuple[CaseResult, ...]) -> dict[str, int]:
    counts = Counter(result.status for result in results)
    return {status.replace(" ", "_"): counts[status] for status in _STATUSES}


def _case_json(result: CaseResult) -> dict[str, Any]:
    error = result.worst_error
    return {
        "name": result.name,
        "status": result.status,
        "reason": result.reason,
        "bound": result.bound,
        "worst_error": None if error is None else float(f"{error:.3g}") if error < float("inf") else "inf",
    }


def _share_text(results: tuple[CaseResult, ...]) -> str:
    shares = [
        result.worst_error / result.bound for result in results if result.worst_error is not None and result.bound
    ]
    return f"{max(shares):.3f}" if shares else ""


def _listed(title: str, results: tuple[CaseResult, ...], statuses: tuple[Status, ...]) -> Iterator[str]:
    """Cases of some statuses; equal reasons together."""
    chosen = [result for result in results if result.status in statuses]
    if not chosen:
        return
    yield ""
    yield f"{title}:"
    by_reason: dict[str, list[str]] = {}
    for result in chosen:
        by_reason.setdefault(result.reason, []).append(result.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"  {names[0]}{more}: {reason}"
