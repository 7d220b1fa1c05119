"""Trees of system files as kernels and container runtimes lay them out, for tests of limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HOST_BYTES, HOST_AVAILABLE = 64 * 2**30, 48 * 2**30
UNLIMITED_V1 = 9223372036854771712

V2_MOUNT = "30 23 0:26 {seen} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def system_tree(root: Path, *, group: str, mounts: str, files: Mapping[str, Mapping[str, object]]) -> Path:
    """A root with /proc/meminfo, the process's group, its mounts, and files by folder under /sys/fs/cgroup."""
    process = root / "proc/self"
    process.mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:       {HOST_BYTES // 1024} kB\nMemFree: 12 kB\nMemAvailable:   {HOST_AVAILABLE // 1024} kB\n"
    )
    (process / "cgroup").write_text(group)
    (process / "mountinfo").write_text(f"23 28 0:21 / /sys rw - sysfs sysfs rw\n{mounts}\n")
    for folder, contents in files.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (place / name).write_text(f"{text}\n")
    return root


def v1_mounts(*, seen: str = "/", joined: bool = True) -> str:
    """Mounts of version 1; processors have one mount as "cpu,cpuacct" or one of their own."""
    processors = "cpu,cpuacct" if joined else "cpu"
    return "\n".join(
        f"{40 + number} 23 0:3{number} {seen} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}"
        for number, name in enumerate((processors, "cpuset", "memory"))
    )


def unlimited_v1(**others: object) -> dict[str, object]:
    return {"memory.limit_in_bytes": UNLIMITED_V1, "memory.usage_in_bytes": 7 * 2**30, **others}
