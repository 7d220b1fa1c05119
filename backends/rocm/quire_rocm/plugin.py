"""The rocm device: the entry point `rocm` of the group `quire.backends`. Nothing here imports torch to probe."""

from __future__ import annotations

from collections.abc import Mapping

from quire.device.capabilities import Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.hookspecs import hookimpl
from quire.device.option_spec import OptionSpec
from quire_rocm import machine
from quire_torch.accelerator import CUDA_CAPABILITIES, cuda_executor
from quire_torch.installed import local_build, torch_version
from quire_torch.options import TorchOptions, option_specs

QUIRE_CONTRACT = (1, 2)
PRIORITY = 90
_HINT = "ROCm builds come from torch's own index: docs/backends/torch.md"


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Asks the kernel driver for GPUs, and the package metadata for a torch that was built for them."""
    found, reason = machine.look()
    reason = reason or _why_torch_does_not_fit()
    if reason:
        return DeviceReport(available=False, reason=reason, priority=PRIORITY)
    first = found[0]
    return DeviceReport(
        available=True,
        name=first.name,
        num_devices=len(found),
        total_memory_bytes=first.total_memory_bytes,
        free_memory_bytes=first.free_memory_bytes,
        driver=f"amdgpu, torch {torch_version()}",
        priority=PRIORITY,
    )


def _why_torch_does_not_fit() -> str:
    """Empty where the installed torch was built for ROCm."""
    installed = torch_version()
    if installed is None:
        return f"torch is not installed ({_HINT})"
    if not local_build(installed).startswith("rocm"):
        return f"torch {installed} was built without ROCm ({_HINT})"
    return ""


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What AMD GPUs can do; raises ConfigError on an option that the device does not have."""
    TorchOptions.parse(options, name=device, device="cuda")
    return CUDA_CAPABILITIES


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """A graph executor over the torch library. Raises BackendError where torch finds no AMD GPU."""
    return cuda_executor(device, plan, vendor="rocm")


@hookimpl
def quire_measure_limits(device: str, options: Mapping[str, str]) -> MachineLimits:
    """Copy bandwidth and the rate of a matrix product, by torch."""
    from quire_torch.limits import measure

    return measure(TorchOptions.parse(options, name=device, device="cuda").device)


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """Torch's device, the attention kernel, threads."""
    return option_specs("cuda")
