"""How much memory there is; on a device of its own, its driver would say."""

from __future__ import annotations

import os


def host_memory() -> tuple[int, int]:
    """(total, free) bytes; 0 where the system does not say."""
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return 0, 0
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page_bytes, os.sysconf("SC_AVPHYS_PAGES") * page_bytes
