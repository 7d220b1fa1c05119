"""Whether there is an NVIDIA GPU, asked of the driver's management library: no torch, no CUDA context, milliseconds."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NvidiaDevice:
    """One GPU as the driver describes it. `number`: as in nvidia-smi. Memory in bytes."""

    number: int
    name: str
    total_memory_bytes: int
    free_memory_bytes: int


@dataclass(frozen=True, slots=True)
class NvidiaMachine:
    """The driver's version and its GPUs, or the reason why there is none."""

    driver: str = ""
    devices: tuple[NvidiaDevice, ...] = ()
    reason: str = ""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def look(library: str = "libnvidia-ml.so.1") -> NvidiaMachine:
    """The machine's GPUs by NVML. Never raises."""
    if not Path("/proc/driver/nvidia").exists() and not Path("/dev/dxg").exists():  # dxg: Windows' subsystem for Linux
        return NvidiaMachine(reason="no NVIDIA driver is loaded (/proc/driver/nvidia does not exist)")
    try:
        nvml = ctypes.CDLL(library)
    except OSError as error:
        return NvidiaMachine(reason=f"the driver's management library cannot be loaded: {error}")
    status = nvml.nvmlInit_v2()
    if status != 0:
        return NvidiaMachine(reason=f"nvmlInit failed with status {status}: the driver is not ready")
    try:
        return _described(nvml)
    finally:
        nvml.nvmlShutdown()


def _described(nvml: ctypes.CDLL) -> NvidiaMachine:
    version, count = ctypes.create_string_buffer(96), ctypes.c_uint()
    nvml.nvmlSystemGetDriverVersion(version, ctypes.c_uint(len(version)))
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0 or count.value == 0:
        return NvidiaMachine(driver=version.value.decode(), reason="the driver sees no GPU")
    return NvidiaMachine(version.value.decode(), tuple(_device(nvml, number) for number in range(count.value)))


def _device(nvml: ctypes.CDLL, number: int) -> NvidiaDevice:
    handle, name, memory = ctypes.c_void_p(), ctypes.create_string_buffer(96), _Memory()
    nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle))
    nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name)))
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    return NvidiaDevice(number, name.value.decode(), memory.total, memory.free)
