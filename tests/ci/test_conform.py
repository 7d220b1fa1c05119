"""The devices of CI against the kit: failures count, and what was not run is said."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.scripts import load_script

DEVICES = ("cpu", "reference", "torch", "tpu", "template_ops", "template_step")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script("ci/conform.py")


def test_one_level_of_one_device(tool: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.run_all([tool.Run("reference", ("L0",))], 120) == 0
    assert "-- reference L0: conforms (" in capfd.readouterr().out


def test_a_device_that_does_not_conform_fails(tool: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.run_all([tool.Run("no_such_device")], 120) == 1
    out = capfd.readouterr().out
    assert "-- no_such_device all levels: DOES NOT CONFORM" in out
    assert "no_such_device" in out.splitlines()[1]


def test_what_does_not_fit_is_said(tool: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    runs = [tool.Run("reference", required=False), tool.Run("cpu", ("L0",), required=False)]
    assert tool.run_all(runs, 0.3, at_once=1) == 0
    out = capfd.readouterr().out
    assert "-- reference all levels: NOT RUN TO ITS END, stopped as the budget of 0 s was spent" in out
    assert "-- cpu L0: NOT RUN, the budget of 0 s is spent" in out


def test_what_is_required_is_run_without_a_budget(tool: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.run_all([tool.Run("reference", ("L0",))], 0) == 0
    assert "-- reference L0: conforms (" in capfd.readouterr().out


def test_every_level_of_every_device_of_a_plain_machine_is_on_the_list(tool: ModuleType) -> None:
    from quire.testing.conform import LEVELS

    named = {run.device: set(LEVELS) if not run.levels else set() for run in tool.RUNS}
    for run in tool.RUNS:
        named[run.device] |= set(run.levels)
    assert named == {device: set(LEVELS) for device in DEVICES}
