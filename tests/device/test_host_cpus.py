"""How many threads can compute at one time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quire.device import control_groups
from quire.device.host_cpus import available_cpus
from quire.device.registry import resolve_device
from quire_cpu.options import CpuOptions
from quire_torch.library import TorchLibrary
from quire_torch.options import TorchOptions
from quire_torch.plugin import CAPABILITIES
from tests.device.system_tree import V2_MOUNT, system_tree, v1_mounts


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 16 processors."""
    monkeypatch.setattr(control_groups, "SYSTEM_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    return tmp_path


def v2(root: Path, files: dict[str, dict[str, object]], group: str = "/") -> None:
    system_tree(root, group=f"0::{group}\n", mounts=V2_MOUNT.format(seen="/"), files=files)


def test_outside_groups_the_processors_are_what_there_is(root: Path) -> None:
    assert available_cpus() == 16


def test_a_system_that_pins_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("1000 1000000", 1),
        ("9900000 100000", 16),
        ("100000 0", 16),
        ("nonsense", 16),
    ],
)
def test_a_quota_of_version_2(root: Path, quota: str, cpus: int) -> None:
    v2(root, {"": {"cpu.max": quota}})
    assert available_cpus() == cpus


def test_quotas_of_all_groups_above_count(root: Path) -> None:
    v2(
        root,
        {
            "kubepods.slice": {"cpu.max": "300000 100000"},
            "kubepods.slice/pod.slice": {"cpu.max": "max 100000"},
            "kubepods.slice/pod.slice/cri-1.scope": {"cpu.max": "800000 100000"},
        },
        group="/kubepods.slice/pod.slice/cri-1.scope",
    )
    assert available_cpus() == 3


@pytest.mark.parametrize(("quota", "cpus"), [(-1, 16), (250000, 3), (50000, 1)])
@pytest.mark.parametrize("joined", [True, False])
def test_a_quota_of_version_1(root: Path, joined: bool, quota: int, cpus: int) -> None:
    processors = "cpu,cpuacct" if joined else "cpu"
    system_tree(
        root,
        group=f"4:{processors}:/docker/1\n6:memory:/docker/1\n",
        mounts=v1_mounts(seen="/docker/1", joined=joined),
        files={processors: {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100000}},
    )
    assert available_cpus() == cpus


@pytest.mark.parametrize("name", ["cpuset.cpus.effective", "cpuset.cpus"])
def test_a_set_of_processors(root: Path, name: str) -> None:
    v2(root, {"": {name: "0-2,8,10-11"}})
    assert available_cpus() == 6


def test_devices_follow(root: Path) -> None:
    v2(root, {"": {"cpu.max": "100000 100000"}})
    assert CpuOptions.parse({}).threads == 1
    assert CpuOptions.parse({"threads": "5"}).threads == 5
    assert dict(resolve_device("cpu").report.details)["cores"] == "1"


def test_torch_takes_no_more_threads_than_the_quota_allows(root: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        TorchLibrary("torch", CAPABILITIES, TorchOptions())
        assert torch.get_num_threads() == 4
        v2(root, {"": {"cpu.max": "200000 100000"}})
        TorchLibrary("torch", CAPABILITIES, TorchOptions())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
