"""Gaps, tables, JSON and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quire.cli.main import main
from quire.device.plugin import Plugin
from quire.errors import ConfigError
from quire.testing.conform import LATER_LEVELS, LEVELS, CaseResult, Report, run_conformance, subject_of
from quire.testing.conform.case import worst_error
from quire.testing.conform.gaps import read_gaps, unused_gaps, with_gaps
from quire.testing.conform.report import SCHEMA_VERSION

PASSED = CaseResult("L2/linear/square/f32", "passed", worst_error=1e-7, bound=1e-5)
FAILED = CaseResult("L2/experts/all/f32", "failed", "error 0.1, at most 1e-05 is allowed", 0.1, 1e-5)


def _report(*results: CaseResult) -> Report:
    return Report(subject_of("reference"), ("L0", "L2"), 0, results, {})


def test_error_is_measured_against_the_size_of_the_expected() -> None:
    b = np.array([3.0, 4.0, 0.0, 0.0], np.float32)
    rms = np.sqrt(25 / 4)
    assert worst_error(b, b) == 0.0
    assert worst_error(b + np.array([0, 0, 0, 0.5], np.float32), b) == pytest.approx(0.5 / rms)
    assert worst_error(b + np.array([0, 1, 0, 0], np.float32), b) == pytest.approx(1 / (4 + rms))
    assert worst_error(np.zeros(3), np.zeros(3)) == 0.0
    assert worst_error(np.full(4, 1e-30), np.zeros(4)) == float("inf")
    assert worst_error(np.array([np.nan, 4, 0, 0], np.float32), b) == float("inf")
    assert worst_error(b, np.array([np.nan, 4, 0, 0])) == float("inf")
    assert worst_error(b[:2], b) == float("inf")


def test_a_gap_expects_its_failure_and_refuses_its_pass() -> None:
    gaps = {"L2/experts/*": "no grouped kernel yet", "L2/linear/*": "mended long ago"}
    gap = with_gaps(FAILED, gaps)
    assert gap.status == "gap"
    assert gap.reason == "no grouped kernel yet [error 0.1, at most 1e-05 is allowed]"
    assert with_gaps(PASSED, gaps).status == "unexpected pass"
    assert with_gaps(FAILED, {"L3/*": "other"}) == FAILED
    skipped = CaseResult("L2/experts", "not applicable", "not declared")
    assert with_gaps(skipped, gaps) == skipped


def test_a_gap_that_matches_nothing_is_a_failure_of_the_levels_that_ran() -> None:
    gaps = {"L2/expertz/*": "typo", "L3/*": "not run"}
    (unused,) = unused_gaps(gaps, [PASSED, FAILED], ["L2"])
    assert (unused.name, unused.status) == ("L2/gaps/L2/expertz/*", "failed")


@pytest.mark.parametrize(
    ("results", "passed"),
    [
        ((PASSED,), True),
        ((PASSED, FAILED), False),
        ((), False),
        ((PASSED, with_gaps(FAILED, {"L2/*": "known"})), True),
        ((with_gaps(PASSED, {"L2/*": "known"}),), False),
    ],
)
def test_what_conforms(results: tuple[CaseResult, ...], passed: bool) -> None:
    report = _report(*results)
    assert report.passed is passed
    assert ("DOES NOT CONFORM" in "\n".join(report.lines())) is not passed


def test_json_is_sorted_and_has_its_fields() -> None:
    one, other = _report(PASSED, FAILED), _report(FAILED, PASSED)
    assert one.json_text() == other.json_text()
    value = json.loads(one.json_text())
    assert list(value) == sorted(value)
    assert value["schema"] == SCHEMA_VERSION == 1
    assert value["levels"]["L2"] == {"passed": 1, "failed": 1, "gap": 0, "unexpected_pass": 0, "not_applicable": 0}
    assert value["not_in_this_version"] == LATER_LEVELS
    assert value["cases"][0] == {
        "name": FAILED.name,
        "status": "failed",
        "reason": FAILED.reason,
        "bound": 1e-5,
        "worst_error": 0.1,
    }
    infinite = _report(CaseResult("L2/a/b", "failed", worst_error=float("inf"), bound=1.0))
    assert json.loads(infinite.json_text())["cases"][0]["worst_error"] == "inf"


def test_two_runs_write_the_same_json() -> None:
    subject = subject_of("reference")
    first, second = (run_conformance(subject, ["L0"]).json_text() for _ in range(2))
    assert first == second


def test_the_command_writes_json_and_says_how_it_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["conform", "--device", "reference", "--level", "l0", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "reference conforms on L0" in text
    assert "L5 serving" in text
    assert "not in this version" in text
    assert json.loads(out.read_text())["passed"] is True
    gaps = tmp_path / "gaps.json"
    gaps.write_text('{"L0/metadata/probe": "it hangs"}')
    assert main(["conform", "--device", "reference", "--level", "L0", "--gaps", str(gaps)]) == 1
    assert "unexpected pass: L0/metadata/probe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--level", "L5"], "it is not in this version"),
        (["--level", "L9"], "levels are L0"),
        (["--device-option", "threads"], "KEY=VALUE"),
        (["--device-option", "colour=red"], "colour"),
        (["--gaps", "/nowhere.json"], "cannot be read"),
        (["--cpu-threads", "2"], "--device reference is checked"),
    ],
)
def test_the_command_refuses_by_name(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--device", "reference", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", '{"L2/*": ""}', '{"L2/*": 3}', "not json"])
def test_gaps_need_patterns_and_reasons(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gaps.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="gaps"):
        read_gaps(path)


def test_gaps_of_a_plugin_are_used() -> None:
    subject = subject_of("reference")
    plugin = Plugin("module", None, (1, 0), {"L0/metadata/probe": "reason"})
    assert type(subject)("x", plugin, subject.report, subject.capabilities).gaps == {"L0/metadata/probe": "reason"}


def test_every_level_has_a_text() -> None:
    assert sorted({**LEVELS, **LATER_LEVELS}) == [f"L{number}" for number in range(9)]
