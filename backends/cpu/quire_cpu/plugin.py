"""The cpu device: the entry point `cpu` of the group `quire.backends`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quire.device.capabilities import Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.hookspecs import hookimpl
from quire.device.host_cpus import available_cpus
from quire.device.host_memory import host_memory
from quire.device.option_spec import OptionSpec

_SCHEMES = frozenset(
    {
        "plain",
        "int8",
        "int8_g16",
        "int8_g32",
        "int8_g64",
        "int8_g128",
        *(f"int4_g{group}{zeros}" for group in (32, 64, 128) for zeros in ("", "_zp")),
    }
)

QUIRE_CONTRACT = (1, 2)
"""Version of the device contract this module is written for; read before any hook is called."""

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
    act_dtypes=("float32",),
    weight_dtypes=("bfloat16", "float32", "float16"),
    kv_dtypes=("bfloat16", "float32", "float16", "int8"),
    block_sizes=(64, 32, 16, 128),
    ops=_OPS,
    op_features=_OP_FEATURES,
    weight_schemes=_SCHEMES,
    fused_ops=frozenset({"add_rms_norm", "rotary_cache_write"}),
    default_num_batched_tokens=512,
    default_num_seqs=64,
    default_memory_utilization=0.7,
    shares_host_memory=True,
    async_depth=2,
    device_sampling=frozenset({"temperature", "top_k", "top_p", "min_p"}),
    row_determinism="batch_invariant",
    read_write_blocks=True,
)
"""Of a machine without bfloat16 arithmetic: activations are float32, memory traffic is weights and cache."""


def capabilities(options: Mapping[str, str]) -> Capabilities:
    """With the activation dtypes of the kernels that the options choose. Raises ConfigError on an unknown option."""
    from quire_cpu.options import CpuOptions

    return replace(CAPABILITIES, act_dtypes=CpuOptions.parse(options).act_dtypes)


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Present wherever the native module was built; the reason tells why it cannot be loaded."""
    try:
        from quire_cpu import _native
        from quire_cpu.machine import cpu_name
        from quire_cpu.options import BFLOAT16_KERNELS
    except ImportError as error:
        return DeviceReport(available=False, reason=f"the native module cannot be loaded: {error}")
    total, available = host_memory()
    kernels = _native.available_kernels()
    chosen = options.get("kernels")
    driver = f"{chosen if chosen in kernels else kernels[0]} kernels"
    if chosen not in kernels and BFLOAT16_KERNELS in kernels:
        driver += f", {BFLOAT16_KERNELS} for bfloat16 activations"
    return DeviceReport(
        available=True,
        name=cpu_name(),
        num_devices=1,
        total_memory_bytes=total,
        free_memory_bytes=available,
        driver=driver,
        priority=0,
        details=(("cores", str(available_cpus())), ("kernels", ", ".join(kernels))),
    )


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What the device can do; raises ConfigError on an option it does not have."""
    return capabilities(options)


@hookimpl
def quire_measure_limits(device: str, options: Mapping[str, str]) -> MachineLimits:
    """Read bandwidth and arithmetic of the threads that would compute, with the instructions of the kernels that are
    asked for; takes about a second."""
    from quire_cpu import _native
    from quire_cpu.options import CpuOptions

    chosen = CpuOptions.parse(options)
    four_streams, one_stream, flops, bf16_flops, int8_ops = _native.measure_limits(chosen.threads, chosen.kernels)
    return MachineLimits(
        read_bytes_per_s=four_streams,
        single_stream_bytes_per_s=one_stream,
        flops_per_s=flops,
        bf16_flops_per_s=bf16_flops or None,
        int8_ops_per_s=int8_ops or None,
        description=f"{chosen.threads} threads; four read streams each; float32 multiply-adds in registers",
    )


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """The native executor. Raises BackendError for a plan that the capabilities do not cover."""
    from quire_cpu.executor import CpuExecutor

    return CpuExecutor(plan, capabilities(plan.options))


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """Threads, kernels, packed weights, a check."""
    from quire_cpu.options import option_specs

    return option_specs()
