"""Damaged checkpoints end in an error of Quire's own or in a run: never another exception, a hang or a signal.

A few hundred here; `python -m tests.mutation.runner --seconds 600 --seed N` does it for longer.
"""

from __future__ import annotations

from pathlib import Path

from tests.mutation.runner import run


def test_damaged_checkpoints_are_refused_or_run(tmp_path: Path) -> None:
    findings = run(tmp_path, seed=0, seconds=20.0, most=600)
    assert not findings.bad, "\n".join(findings.bad)
    assert findings.outcomes["refused"] > 10, "the mutations damage nothing"
    assert findings.outcomes["ran"] > 10, "nothing runs that is damaged where it does no harm"
