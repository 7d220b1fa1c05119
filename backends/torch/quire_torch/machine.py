"""Memory that is left on a device, as torch or the operating system says."""

from __future__ import annotations

import torch

from quire.device.host_memory import host_memory


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
