"""Devices beside the CPU: what they can do, as data, and whether torch can use one here."""

from __future__ import annotations

from dataclasses import replace

from quire.device.capabilities import Capabilities, DeviceReport
from quire.device.contract import Executor, ExecutorPlan
from quire.errors import BackendError
from quire_torch.options import TorchOptions
from quire_torch.plugin import CAPABILITIES

_HALVES_FIRST = ("bfloat16", "float16", "float32")

CUDA_CAPABILITIES = replace(
    CAPABILITIES,
    act_dtypes=_HALVES_FIRST,
    weight_dtypes=_HALVES_FIRST,
    kv_dtypes=_HALVES_FIRST,
    block_sizes=(16, 32, 64, 128),
    default_num_batched_tokens=8192,
    default_num_seqs=256,
    default_memory_utilization=0.9,
    shares_host_memory=False,
)
"""NVIDIA's and AMD's devices, which torch both calls cuda."""

_CAPABILITIES = {
    "cuda": CUDA_CAPABILITIES,
    "xpu": replace(CUDA_CAPABILITIES, default_num_batched_tokens=2048, default_num_seqs=64),
    "mps": replace(
        CUDA_CAPABILITIES,
        act_dtypes=("float16", "float32"),
        weight_dtypes=("float16", "float32"),
        kv_dtypes=("float16", "float32"),
        default_num_batched_tokens=1024,
        default_num_seqs=32,
        default_memory_utilization=0.7,
        shares_host_memory=True,
        device_sampling=CUDA_CAPABILITIES.device_sampling - {"top_p"},
    ),  # it has no float64
}


def capabilities(device_type: str) -> Capabilities:
    """What torch's devices of a type can do: cuda, xpu or mps."""
    return _CAPABILITIES[device_type]


def report(device: str, *, priority: int) -> DeviceReport:
    """What torch says of a device; imports torch, which takes seconds."""
    import torch

    chosen = torch.device(device)
    module = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}[chosen.type]
    present = torch.backends.mps.is_available() if chosen.type == "mps" else module.is_available()
    if not present:
        built = torch.backends.mps.is_built() if chosen.type == "mps" else True
        return DeviceReport(
            available=False,
            priority=priority,
            reason=f"torch {torch.__version__} finds no {chosen.type} device"
            f"{'' if built else ' and was built without support for it'}",
        )
    if chosen.type == "mps":
        total = torch.mps.recommended_max_memory()
        return DeviceReport(
            available=True,
            name="Apple GPU (mps)",
            num_devices=1,
            total_memory_bytes=total,
            free_memory_bytes=total - torch.mps.driver_allocated_memory(),
            driver=f"torch {torch.__version__}",
            priority=priority,
        )
    count, index = module.device_count(), chosen.index or 0
    if index >= count:
        return DeviceReport(
            available=False,
            priority=priority,
            reason=f"there is no {device}: {count} device{'' if count == 1 else 's'} of that type",
        )
    free, total = module.mem_get_info(index)
    return DeviceReport(
        available=True,
        name=module.get_device_name(index),
        num_devices=count,
        total_memory_bytes=total,
        free_memory_bytes=free,
        driver=f"torch {torch.__version__}",
        priority=priority,
    )


def cuda_executor(name: str, plan: ExecutorPlan, *, vendor: str) -> Executor:
    """A graph executor on a device that torch calls cuda, for the device `name` of one vendor: "cuda" or "rocm".

    Raises: BackendError where torch was built for the other vendor or finds no device.
    """
    import torch

    from quire.device.graph_executor import GraphExecutor
    from quire_torch.library import TorchLibrary

    options = TorchOptions.parse(plan.options, name=name, device="cuda")
    built_for = "rocm" if torch.version.hip else "cuda"
    found = report(options.device, priority=0)
    if not found.available or built_for != vendor:
        because = found.reason or f"torch {torch.__version__} was built for {built_for}"
        raise BackendError(f"device {name} cannot be used", because=because, hint="`quire devices`")
    return GraphExecutor(TorchLibrary(name, CUDA_CAPABILITIES, options), plan)
