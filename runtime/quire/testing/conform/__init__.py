"""The conformance kit: holds a backend against the contract and against the reference.

`quire conform --device NAME` is its command, `quire.testing.pytest_conform` its pytest plugin, `docs/conformance.md`
its guide. Cases are data; every check goes through the public door of the executor.
"""

from __future__ import annotations

from quire.testing.conform.case import LATER_LEVELS, LEVELS, Case, CaseResult
from quire.testing.conform.report import Report
from quire.testing.conform.run import level_cases, run_case, run_conformance
from quire.testing.conform.subject import Subject, subject_of, subject_of_plugin

__all__ = [
    "LATER_LEVELS",
    "LEVELS",
    "Case",
    "CaseResult",
    "Report",
    "Subject",
    "level_cases",
    "run_case",
    "run_conformance",
    "subject_of",
    "subject_of_plugin",
]
