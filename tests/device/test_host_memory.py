"""How much memory the host has for this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.device import host_memory as module
from quire.device.host_memory import host_memory
from quire.device.registry import resolve_device


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A limit of 1,000,000 bytes, of which 400,000 are used."""
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    return tmp_path


def test_a_cgroup_limit_counts(cgroup: Path) -> None:
    assert host_memory() == (1000000, 600000)
    (cgroup / "memory.max").write_text("max\n")
    assert host_memory()[0] > 1000000


@pytest.mark.parametrize("device", ["cpu", "reference", "torch", "tpu"])
def test_devices_of_the_host_report_it(device: str, cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")
    report = resolve_device(device).report
    assert (report.total_memory_bytes, report.free_memory_bytes) == (1000000, 600000)
