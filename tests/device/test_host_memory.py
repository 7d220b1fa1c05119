"""How much memory the host has for this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.device import host_memory as module
from quire.device.host_memory import host_memory
from quire.reference.device import quire_probe


def test_a_cgroup_limit_counts_on_every_device_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    assert host_memory() == (1000000, 600000)
    report = quire_probe("reference", {})
    assert (report.total_memory_bytes, report.free_memory_bytes) == (1000000, 600000)
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory()[0] > 1000000
