"""The memory of the host as the operating system describes it, for devices that live in it."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def host_memory() -> tuple[int, int]:
    """(total, available) bytes of memory for this process, cgroup limits included; 0 = the system does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in info.read_text().splitlines()}
    total, available = kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is None:
        return total, available
    return min(total, limit), min(available, max(limit - (used or 0), 0))


def _number(path: Path) -> int | None:
    """The number in a cgroup file; None where there is none ("max", cgroup v1, outside Linux)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
