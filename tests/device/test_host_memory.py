"""How much memory the host has for this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.device import control_groups
from quire.device.host_memory import host_memory
from quire.device.registry import resolve_device
from tests.device.system_tree import HOST_AVAILABLE, HOST_BYTES, V2_MOUNT, system_tree, unlimited_v1, v1_mounts

GIB = 2**30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control_groups, "SYSTEM_ROOT", tmp_path)
    return tmp_path


def v2(root: Path, files: dict[str, dict[str, object]], group: str = "/", seen: str = "/") -> None:
    system_tree(root, group=f"0::{group}\n", mounts=V2_MOUNT.format(seen=seen), files=files)


def test_without_limits_the_host_is_what_there_is(root: Path) -> None:
    v2(root, {"": {"memory.max": "max", "memory.high": "max", "memory.current": 5}})
    assert host_memory() == (HOST_BYTES, HOST_AVAILABLE)


def test_a_system_that_says_nothing(root: Path) -> None:
    assert host_memory() == (0, 0)


def test_a_container_of_its_own_names(root: Path) -> None:
    v2(
        root,
        {
            "": {
                "memory.max": 8 * GIB,
                "memory.high": "max",
                "memory.current": 3 * GIB,
                "memory.stat": f"anon 12\nactive_file 500\ninactive_file {GIB}",
            }
        },
    )
    assert host_memory() == (8 * GIB, 6 * GIB)


def test_the_cache_of_files_that_nobody_uses_is_not_used_memory(root: Path) -> None:
    v2(root, {"": {"memory.max": GIB, "memory.current": GIB, "memory.stat": f"inactive_file {GIB}"}})
    assert host_memory() == (GIB, GIB)


def test_a_group_is_slowed_down_before_its_limit(root: Path) -> None:
    v2(root, {"": {"memory.max": 8 * GIB, "memory.high": 2 * GIB, "memory.current": 0}})
    assert host_memory() == (2 * GIB, 2 * GIB)


def test_limits_of_all_groups_above_count(root: Path) -> None:
    """A user's systemd slice: the smallest total and the smallest rest are of two groups."""
    v2(
        root,
        {
            "": {},
            "user.slice": {"memory.max": 4 * GIB, "memory.current": 3.5 * GIB},
            "user.slice/user-1.slice": {"memory.max": "max", "memory.current": 1},
            "user.slice/user-1.slice/app.scope": {"memory.max": 2 * GIB, "memory.current": GIB},
        },
        group="/user.slice/user-1.slice/app.scope",
    )
    (root / "sys/fs/cgroup/user.slice/memory.current").write_text(f"{7 * GIB // 2}\n")
    assert host_memory() == (2 * GIB, GIB // 2)


def test_a_group_that_used_more_than_its_limit_has_nothing_left(root: Path) -> None:
    v2(root, {"": {"memory.max": GIB, "memory.current": 2 * GIB}})
    assert host_memory() == (GIB, 0)


def test_docker_with_version_1(root: Path) -> None:
    """The group has the host's name, and the mount shows that group only."""
    group = "/docker/0a1b"
    system_tree(
        root,
        group=f"6:memory:{group}\n4:cpu,cpuacct:{group}\n",
        mounts=v1_mounts(seen=group),
        files={
            "memory": {
                "memory.limit_in_bytes": 3 * GIB,
                "memory.usage_in_bytes": 2 * GIB,
                "memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}",
            }
        },
    )
    assert host_memory() == (3 * GIB, 2 * GIB)


def test_unlimited_in_version_1_is_a_huge_number(root: Path) -> None:
    system_tree(root, group="6:memory:/\n", mounts=v1_mounts(), files={"memory": unlimited_v1()})
    assert host_memory() == (HOST_BYTES, HOST_AVAILABLE)


def test_version_1_knows_limits_of_groups_that_are_not_seen(root: Path) -> None:
    """A pod's limit stands in a group above the container's, which its mount does not show."""
    group = "/kubepods/burstable/pod1/c2"
    stat = f"cache 1\nhierarchical_memory_limit {5 * GIB}\ntotal_inactive_file 0"
    system_tree(
        root,
        group=f"6:memory:{group}\n",
        mounts=v1_mounts(seen=group),
        files={"memory": unlimited_v1(**{"memory.stat": stat, "memory.usage_in_bytes": GIB})},
    )
    assert host_memory() == (5 * GIB, 4 * GIB)


def test_both_versions_at_once(root: Path) -> None:
    """The hybrid layout: memory is of version 1, though version 2 is mounted and has a group too."""
    mounts = v1_mounts() + "\n50 23 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    system_tree(
        root,
        group="6:memory:/a/b\n0::/a\n",
        mounts=mounts,
        files={
            "memory/a/b": unlimited_v1(),
            "memory/a": {"memory.limit_in_bytes": 6 * GIB, "memory.usage_in_bytes": GIB},
            "unified/a": {"cgroup.procs": ""},
        },
    )
    assert host_memory() == (6 * GIB, 5 * GIB)


@pytest.mark.parametrize("group", ["/not/here", "/../sibling", "/../../elsewhere/x"])
def test_a_group_that_is_not_seen_leaves_what_is_mounted(root: Path, group: str) -> None:
    v2(root, {"": {"memory.max": GIB, "memory.current": 0}}, group=group)
    assert host_memory() == (GIB, GIB)


def test_a_mount_point_with_a_blank(root: Path) -> None:
    system_tree(root, group="0::/\n", files={}, mounts=r"3 2 0:2 / /odd\040place rw - cgroup2 none rw")
    (root / "odd place").mkdir()
    (root / "odd place/memory.max").write_text("1000\n")
    assert host_memory() == (1000, 1000)


def test_files_that_hold_nonsense_limit_nothing(root: Path) -> None:
    v2(root, {"": {"memory.max": "many", "memory.current": -3, "memory.stat": "inactive_file\nx y z"}})
    (root / "proc/self/cgroup").write_text("\n::\nnonsense\n0::/\n")
    (root / "proc/self/mountinfo").write_text(f"1 2 - cgroup2\n - cgroup\n{V2_MOUNT.format(seen='/')}\n")
    assert host_memory() == (HOST_BYTES, HOST_AVAILABLE)


def test_a_limit_of_addresses_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    v2(root, {})
    (root / "proc/self/status").write_text("Name:\tpython\nVmSize:\t 1048576 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3 * GIB, resource.RLIM_INFINITY))
    assert host_memory() == (3 * GIB, 2 * GIB)


@pytest.mark.parametrize("device", ["cpu", "reference", "torch", "tpu"])
def test_devices_of_the_host_report_it(device: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")
    v2(root, {"": {"memory.max": 1000000, "memory.current": 400000}})
    report = resolve_device(device).report
    assert (report.total_memory_bytes, report.free_memory_bytes) == (1000000, 600000)
