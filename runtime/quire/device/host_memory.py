"""The memory of the host as the operating system describes it, for devices that live in it."""

from __future__ import annotations

from pathlib import Path

from quire.device import control_groups
from quire.device.control_groups import group_folders, read_number, read_text

try:
    import resource
except ImportError:  # no such limits outside Unix
    resource = None  # type: ignore[assignment]


def host_memory() -> tuple[int, int]:
    """(total, available) bytes of memory for this process, within its own limits and those of its control groups.

    0 = nobody says. What a group has used is what it cannot give back at once: its pages less the cache of files that
    are not in use.
    """
    root = control_groups.SYSTEM_ROOT
    host = _fields(root / "proc/meminfo")
    total, available = host.get("MemTotal", 0) * 1024, host.get("MemAvailable", 0) * 1024
    for folder in group_folders("memory", root):
        limit = _limit(folder)
        if limit is not None and total:
            total, available = min(total, limit), min(available, max(limit - _used(folder), 0))
    limit = _address_space()
    if limit is not None and total:
        held = _fields(root / "proc/self/status").get("VmSize", 0) * 1024
        total, available = min(total, limit), min(available, max(limit - held, 0))
    return total, available


def _address_space() -> int | None:
    """Bytes of addresses that this process may have (`ulimit -v`); None = no limit."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _limit(folder: Path) -> int | None:
    """Bytes that a group and those above it may use; None = no limit.

    `memory.high`, above which a group is slowed down to a crawl, counts as one. Version 1 says "unlimited" by a
    number beyond any machine's memory. Its `hierarchical_memory_limit` knows groups that are not seen from here.
    """
    limits = [read_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limits.append(_fields(folder / "memory.stat").get("hierarchical_memory_limit"))
    return min((limit for limit in limits if limit is not None), default=None)


def _used(folder: Path) -> int:
    used = read_number(folder / "memory.current") or read_number(folder / "memory.usage_in_bytes") or 0
    fields = _fields(folder / "memory.stat")
    return max(used - fields.get("total_inactive_file", fields.get("inactive_file", 0)), 0)


def _fields(path: Path) -> dict[str, int]:
    """The lines "name: number ..." or "name number" of a file."""
    fields = (line.replace(":", " ").split() for line in read_text(path).splitlines())
    return {words[0]: int(words[1]) for words in fields if len(words) > 1 and words[1].isdecimal()}
