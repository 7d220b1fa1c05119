"""How much memory this process holds: its peak, and what of it is private or mapped from files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident bytes.

    Attributes:
        peak_bytes: the most at any time so far.
        private_bytes: now, memory that only this process has. mapped_bytes: now, pages of mapped files, which the
            system may drop. Both None where the system does not tell them apart.
    """

    peak_bytes: int
    private_bytes: int | None = None
    mapped_bytes: int | None = None


def memory_use() -> MemoryUse:
    """Of this process, now."""
    import resource

    if not STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return MemoryUse(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    lines = (line.split() for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
    return MemoryUse(sizes["VmHWM:"], sizes["RssAnon:"], sizes["RssFile:"] + sizes["RssShmem:"])
