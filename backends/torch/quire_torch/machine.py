"""The machine as torch and the operating system describe it: memory that is left, names."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on the device; 0 = nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        return free + torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return host_memory()[1]


def host_memory() -> tuple[int, int]:
    """(total, available) bytes of host memory for this process, cgroup limits included; 0 = nobody says."""
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
    """The number in a cgroup file; None where there is none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
