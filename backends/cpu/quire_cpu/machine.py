"""The machine's processor as the operating system names it."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where the system does not say."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Hardware") and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
