"""JAX's devices of one platform: finding them, their memory, and what a report says of them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax

from quire.device.capabilities import DeviceReport
from quire.device.host_cpus import available_cpus
from quire.device.host_memory import host_memory
from quire.errors import BackendError
from quire_tpu.options import TpuOptions


def devices(platform: str) -> Sequence[jax.Device]:
    """The platform's devices. Raises BackendError with JAX's reason when it has none.

    JAX starts every platform it knows at its first use unless it is told one, so it is told, if nobody has yet.
    On the host XLA starts as many threads as NPROC says, else one for each processor, whatever the process may use.
    """
    known = jax.config.jax_platforms
    if not known:
        jax.config.update("jax_platforms", platform)
    os.environ.setdefault("NPROC", str(available_cpus()))
    try:
        return jax.devices(platform)
    except RuntimeError as error:
        jax.config.update("jax_platforms", known)
        raise BackendError(
            f"JAX has no platform {platform}", because=" ".join(str(error).split())[:300], hint="--tpu-platform cpu"
        ) from error


def memory(device: jax.Device) -> tuple[int, int]:
    """(total, free) bytes of one device; of the host where the device has no memory of its own; 0 = unknown."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"], stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_memory() if device.platform == "cpu" else (0, 0)


def report(options: TpuOptions, *, priority: int) -> DeviceReport:
    """What is there; never raises BackendError."""
    try:
        found = devices(options.platform)
    except BackendError as error:
        return DeviceReport(available=False, reason=f"{error.what}: {error.because}")
    total, free = memory(found[0])
    kind = found[0].device_kind
    name = kind if options.platform == "tpu" else f"JAX on {options.platform} ({kind}), not a TPU"
    return DeviceReport(
        available=True,
        name=name,
        num_devices=len(found),
        total_memory_bytes=total,
        free_memory_bytes=free,
        driver=f"jax {jax.__version__}",
        priority=priority,
    )
