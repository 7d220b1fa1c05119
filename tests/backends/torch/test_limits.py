"""Limits as the benchmarks see them, and the GPU benchmark in small on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from quire.device.registry import resolve_device

ROOT = Path(__file__).parents[3]


def test_limits_are_measured() -> None:
    limits = resolve_device("torch").measure_limits()
    assert limits is not None
    assert 1e8 < limits.read_bytes_per_s < 1e13
    assert 1e8 < limits.flops_per_s < 1e15
    assert "float32" in limits.description


def test_the_gpu_benchmark_runs_in_small() -> None:
    words = "--device torch --device-option threads=1 --model tiny --batch 1 --batch 3 --context 40 --steps 3 --json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *words.split()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    rows = json.loads(done.stdout)["rows"]
    assert [row["batch"] for row in rows] == [1, 3]
    assert all(0 < row["bound_ms"] < row["step_ms"] for row in rows)
