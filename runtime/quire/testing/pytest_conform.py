"""The conformance kit under pytest: one test for each case.

In a backend's own repository, `conftest.py` says `pytest_plugins = ["quire.testing.pytest_conform"]` and the ini file
`quire_device = NAME` (or the command line `--quire-device NAME`). Cases are then collected beside the other tests,
marked `conform`; declared gaps are strict xfails, cases that do not apply are skipped with their reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.testing.conform import LEVELS, Case, CaseResult, Subject, level_cases, run_case, subject_of
from quire.testing.conform.gaps import checked_gaps, read_gaps, unused_gaps, with_gaps


def pytest_addoption(parser: pytest.Parser) -> None:
    """The device, the levels and further gaps."""
    parser.addini("quire_device", "device that the conformance kit checks", default="")
    parser.addini("quire_levels", "levels to run", type="args", default=[])
    parser.addini("quire_gaps", "JSON file of declared gaps", default="")
    group = parser.getgroup("quire", "Quire conformance")
    group.addoption("--quire-device", metavar="NAME", help="device that the conformance kit checks")
    group.addoption("--quire-level", action="append", metavar="L", help="level to run, may be repeated; default: all")
    group.addoption("--quire-option", action="append", default=[], metavar="KEY=VALUE", help="option of the device")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the mark."""
    config.addinivalue_line("markers", "conform: a case of the conformance kit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds the cases, when a device is named."""
    device = config.getoption("--quire-device") or config.getini("quire_device")
    if not device:
        return
    options = dict(pair.split("=", 1) for pair in config.getoption("--quire-option"))
    levels = config.getoption("--quire-level") or config.getini("quire_levels") or list(LEVELS)
    subject = subject_of(device, options)
    gaps = dict(subject.gaps)
    if config.getini("quire_gaps"):
        gaps.update(read_gaps(Path(config.rootpath, config.getini("quire_gaps"))))
    checked_gaps(gaps, device)
    cases = list(level_cases(subject, levels))
    added = [ConformItem.from_parent(session, name=case.name, case=case, subject=subject, gaps=gaps) for case in cases]
    named = [CaseResult(case.name, "passed") for case in cases]
    added += [
        ConformItem.from_parent(session, name=result.name, case=None, subject=subject, gaps={}, unused=result)
        for result in unused_gaps(gaps, named, levels)
    ]
    items.extend(added)


class ConformItem(pytest.Item):
    """One case as a test."""

    def __init__(
        self,
        *,
        case: Case | None,
        subject: Subject,
        gaps: dict[str, str],
        unused: CaseResult | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self._case, self._subject, self._gaps, self._unused = case, subject, gaps, unused
        self.add_marker("conform")

    def runtest(self) -> None:
        """Runs the case; its status becomes pytest's."""
        result = self._unused
        if self._case is not None:
            result = with_gaps(run_case(self._case, self._subject), self._gaps)
        assert result is not None
        if result.status == "not applicable":
            pytest.skip(result.reason)
        if result.status == "gap":
            pytest.xfail(result.reason)
        if result.status != "passed":
            pytest.fail(f"{result.status}: {result.reason}", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The device and the case."""
        return self.path, None, f"{self._subject.name}: {self.name}"
