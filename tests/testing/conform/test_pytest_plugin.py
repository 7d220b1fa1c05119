"""The pytest plugin, as a third party's repository uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_one_line_in_conftest_and_one_in_the_ini_file(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["quire.testing.pytest_conform"]\n')
    (tmp_path / "gaps.json").write_text('{"L0/metadata/probe": "it hangs", "L0/no_such_case": "typo"}')
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nquire_device = reference\nquire_levels = L0\nquire_gaps = gaps.json\naddopts = --strict-markers\n"
    )
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    done = _run(tmp_path)
    assert done.returncode == 1, done.stdout
    assert "test_own.py::test_own" in done.stdout
    assert "L0/metadata/close_twice" in done.stdout
    assert "unexpected pass: a gap is declared for it (it hangs)" in done.stdout
    assert "this declared gap matches no case" in done.stdout
    assert "2 failed" in done.stdout
    assert "it declares no limit" in done.stdout  # why a case was skipped


def test_without_a_device_nothing_is_added(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    done = _run(tmp_path, "-p", "quire.testing.pytest_conform")
    assert done.returncode == 0
    assert "1 passed" in done.stdout
