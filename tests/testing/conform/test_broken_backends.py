"""The kit can fail: every broken backend is caught by the level that is meant to, and the healthy one passes all."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from quire.device.plugin import load_plugin
from quire.testing.conform import LEVELS, Subject, level_cases, run_case, run_conformance, subject_of_plugin
from tests.scripts import load_script

broken = load_script("tests/testing/conform/broken/plugins.py")


def _subject(plugin: type[Any], **attributes: Any) -> Subject:
    made = type("Made", (plugin,), attributes)()
    return subject_of_plugin("broken", load_plugin("broken", lambda: made))


@pytest.mark.parametrize("level", LEVELS)
def test_the_healthy_backend_passes(level: str) -> None:
    report = run_conformance(_subject(broken.Plugin), [level])
    assert not report.problems(), [f"{result.name}: {result.reason}" for result in report.problems()][:5]
    assert report.passed


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_broken_backend_is_caught_by_its_level(name: str) -> None:
    case = broken.BROKEN[name]
    subject = _subject(case.plugin)
    level = case.caught_by.partition("/")[0]
    chosen = [found for found in level_cases(subject, [level]) if fnmatchcase(found.name, case.caught_by)]
    assert chosen, f"no case is called {case.caught_by}"
    results = [run_case(found, subject) for found in chosen]
    failed = [result for result in results if result.status == "failed"]
    assert failed, f"{name} passes {[result.name for result in results]}"
    for result in failed:
        assert "Traceback" not in result.reason
        assert not result.reason.startswith(("NameError", "AttributeError", "TypeError")), result.reason
