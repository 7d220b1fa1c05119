"""The processors of the host that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from quire.device import control_groups
from quire.device.control_groups import group_folders, read_number, read_text


def available_cpus() -> int:
    """Threads that can compute at one time: processors the process may run on, within its control groups' limits.

    A quota of processor time counts as so many processors, rounded up: with 1.5 processors two threads get all of
    it, one would leave a third unused. At least 1.
    """
    root = control_groups.SYSTEM_ROOT
    counts = [
        _schedulable(),
        *filter(None, map(_quota, group_folders("cpu", root))),
        *filter(None, map(_set_size, group_folders("cpuset", root))),
    ]
    return max(min(counts), 1)


def _schedulable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(folder: Path) -> int | None:
    """A group's processor time in whole processors; None = no limit. Version 1 says that by a quota of -1."""
    quota, _, period = read_text(folder / "cpu.max").partition(" ")
    if not quota:
        quota = read_text(folder / "cpu.cfs_quota_us")
        period = str(read_number(folder / "cpu.cfs_period_us"))
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return max(-(-int(quota) // int(period)), 1)


def _set_size(folder: Path) -> int | None:
    """Processors in a group's set, as in "0-3,8"; None where it names none."""
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        text = read_text(folder / name)
        if text:
            return _count(text)
    return None


def _count(cpus: str) -> int | None:
    count = 0
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return None
        count += int(last or first) - int(first) + 1
    return count
