"""A device's limits as torch reaches them now: copy bandwidth, and the rate of a large matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from quire.device.capabilities import MachineLimits


def measure(name: str) -> MachineLimits:
    """Copy bandwidth counts bytes read and bytes written; products are bfloat16, on the CPU float32.

    Takes about a second, and three times the size of the copied array in memory (1 GiB, on the CPU 128 MiB).
    """
    device = torch.device(name)
    on_host = device.type == "cpu"
    num_bytes, size = (1 << 27, 1024) if on_host else (1 << 30, 8192)
    dtype = torch.float32 if on_host else torch.float16 if device.type == "mps" else torch.bfloat16
    source = torch.zeros(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(device, lambda: target.copy_(source))
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product_s = _best_s(device, lambda: torch.mm(a, b))
    return MachineLimits(
        read_bytes_per_s=2 * num_bytes / copy_s,
        flops_per_s=2 * size**3 / product_s,
        description=f"copy of {num_bytes >> 20} MiB; {str(dtype).removeprefix('torch.')} product of {size}x{size}",
    )


def synchronize(device: torch.device) -> None:
    """Waits for all that was given to the device."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _best_s(device: torch.device, work: Callable[[], object], rounds: int = 5, repeats: int = 5) -> float:
    """The shortest of some rounds, per call, after one to warm up."""
    best = float("inf")
    for number in range(rounds + 1):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronize(device)
        if number:
            best = min(best, (time.perf_counter() - start) / repeats)
    return best
