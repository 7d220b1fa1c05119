"""The tpu device: the entry point `tpu` of the group `quire.backends`. Importing this does not import JAX."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from quire.device.capabilities import Capabilities, DeviceReport
from quire.device.contract import Executor, ExecutorPlan
from quire.device.hookspecs import hookimpl
from quire.device.option_spec import OptionSpec
from quire.errors import BackendError, ConfigError
from quire_tpu.options import OPTION_SPECS, PLATFORM_VARIABLE, TpuOptions

QUIRE_CONTRACT = (1, 2)
"""Version of the device contract this module is written for; read before any hook is called."""

MAX_TP = 256
_PRIORITY = 90


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


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Whether JAX has the platform that is asked for. JAX is imported only where it may have it."""
    try:
        chosen = TpuOptions.parse(options)
    except ConfigError as error:
        return DeviceReport(available=False, reason=f"{error.what}: {error.because}")
    reason = _why_not(chosen)
    if reason:
        return DeviceReport(available=False, reason=reason)
    from quire_tpu.platform import report

    return report(chosen, priority=_PRIORITY if chosen.platform == "tpu" else -60)


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What the device can do; raises ConfigError on an option it does not have."""
    chosen = TpuOptions.parse(options)
    on_tpu = chosen.platform == "tpu"
    dtypes = ("bfloat16", "float32") if on_tpu else ("float32", "bfloat16")
    return Capabilities(
        contract=QUIRE_CONTRACT,
        act_dtypes=dtypes,
        weight_dtypes=dtypes,
        kv_dtypes=dtypes,
        block_sizes=(32, 64, 128, 16) if on_tpu else (16, 32, 64, 128, 8, 4, 2, 1),
        ops=_OPS,
        op_features=_OP_FEATURES,
        fused_ops=frozenset({"add_rms_norm", "rotary_cache_write"}),
        default_num_batched_tokens=1024 if on_tpu else 256,
        default_num_seqs=128 if on_tpu else 16,
        default_memory_utilization=0.9 if on_tpu else 0.5,
        shares_host_memory=chosen.platform == "cpu",
        async_depth=2,
        device_sampling=frozenset({"temperature", "top_k", "top_p", "min_p"}),
        row_determinism="run_to_run",
        read_write_blocks=True,
        collectives=frozenset({"all_reduce", "all_gather"}),
        max_tp=MAX_TP,
    )


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """A JAX executor for the plan."""
    chosen = TpuOptions.parse(plan.options)
    reason = _why_not(chosen)
    if reason:
        raise BackendError(f"device {device} is not usable", because=reason)
    from quire_tpu.executor import JaxExecutor

    return JaxExecutor(device, plan, quire_capabilities(device, plan.options), chosen)


def jax_version() -> str | None:
    """The installed JAX's version without importing it; None = not installed."""
    if find_spec("jax") is None or find_spec("jaxlib") is None:
        return None
    try:
        return version("jax")
    except PackageNotFoundError:
        return "unknown"


def _why_not(options: TpuOptions) -> str:
    """Why JAX cannot have the platform, as far as can be told without importing it; "" = it may."""
    if jax_version() is None:
        return "JAX is not installed (pip install 'quire[tpu]')"
    if options.platform != "tpu":
        return ""
    if find_spec("libtpu") is None:
        return "libtpu is not installed (pip install 'quire[tpu]')"
    nodes = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    if not nodes:
        return (
            f"no TPU: /dev has no accel* and no vfio/* (JAX on another platform: --tpu-platform cpu,"
            f" or {PLATFORM_VARIABLE}=cpu)"
        )
    return ""


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """The platform, and attention."""
    return OPTION_SPECS
