"""The torch device: the entry point `torch` of the group `quire.backends`. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Mapping

from quire.device.capabilities import Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.hookspecs import hookimpl
from quire.device.host_memory import host_memory
from quire.device.option_spec import OptionSpec
from quire.errors import ConfigError
from quire_torch.installed import torch_version
from quire_torch.options import TorchOptions, option_specs

QUIRE_CONTRACT = (1, 2)

_FLOATS = ("float32", "bfloat16", "float16")

_OPS = frozenset(
    {
        "activation",
        "add",
        "all_gather",
        "all_reduce",
        "cache_write",
        "embedding",
        "experts",
        "gated_activation",
        "layer_norm",
        "linear",
        "paged_attention",
        "reshape",
        "rms_norm",
        "rotary",
        "route_experts",
        "scale",
        "softcap",
        "split",
        "take_rows",
    }
)
"""Written out: an op that Quire adds one day is not here until it has a kernel."""

_OP_FEATURES = frozenset({"paged_attention.alibi", "paged_attention.sinks"})

CAPABILITIES = Capabilities(
    contract=QUIRE_CONTRACT,
    act_dtypes=_FLOATS,
    weight_dtypes=_FLOATS,
    kv_dtypes=_FLOATS,
    block_sizes=(16, 32, 64, 128, 8, 4, 2, 1),
    ops=_OPS,
    op_features=_OP_FEATURES,
    fused_ops=frozenset({"add_rms_norm", "rotary_cache_write"}),
    default_num_batched_tokens=512,
    default_num_seqs=64,
    default_memory_utilization=0.7,
    shares_host_memory=True,
    async_depth=2,
    device_sampling=frozenset(
        {"temperature", "top_k", "top_p", "min_p", "penalties", "allowed", "banned", "bias", "mask"}
    ),
    row_determinism="run_to_run",
    read_write_blocks=True,
)
"""On the CPU. A row's bits depend on the batch: the libraries under torch pick their kernels by its size."""


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Present wherever torch is; a device other than the CPU is looked for by torch itself."""
    installed = torch_version()
    if installed is None:
        return DeviceReport(available=False, reason="torch is not installed (pip install torch)", priority=-50)
    try:
        chosen = TorchOptions.parse(options)
    except ConfigError as error:
        return DeviceReport(available=False, reason=f"{error.what}: {error.because}", priority=-50)
    if chosen.device_type == "cpu":
        total, free = host_memory()
        return DeviceReport(
            available=True,
            name="torch on the host",
            num_devices=1,
            total_memory_bytes=total,
            free_memory_bytes=free,
            driver=f"torch {installed}",
            priority=-50,
        )
    from quire_torch.accelerator import report

    return report(chosen.device, priority=-50)


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What the device can do; raises ConfigError on an option it does not have."""
    chosen = TorchOptions.parse(options)
    if chosen.device_type == "cpu":
        return CAPABILITIES
    from quire_torch.accelerator import capabilities

    return capabilities(chosen.device_type)


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """A graph executor over the torch library."""
    from quire.device.graph_executor import GraphExecutor
    from quire_torch.library import TorchLibrary

    chosen = TorchOptions.parse(plan.options)
    return GraphExecutor(TorchLibrary(device, quire_capabilities(device, plan.options), chosen), plan)


@hookimpl
def quire_measure_limits(device: str, options: Mapping[str, str]) -> MachineLimits:
    """Copy bandwidth and the rate of a matrix product, by torch."""
    from quire_torch.limits import measure

    return measure(TorchOptions.parse(options).device)


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """Torch's device, the attention kernel, threads."""
    return option_specs("cpu")
