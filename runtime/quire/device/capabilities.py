"""What a device can do, as data: the engine reads it and never asks which device it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CONTRACT_VERSION = (1, 2)
"""(major, minor) of the contract this core speaks; a plugin's major must be equal, its minor not newer."""

RowDeterminism = Literal["batch_invariant", "run_to_run", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """One device's declared abilities; no feature is assumed.

    Attributes:
        contract: version the plugin was written for.
        act_dtypes: activation dtypes it computes in, preferred first.
        weight_dtypes: dtypes in which it can hold plain weights, preferred first ("float32", "bfloat16", "float16").
        kv_dtypes: dtypes of the KV cache, preferred first.
        weight_schemes: quantization schemes with a kernel; "plain" always.
        block_sizes: KV block sizes in tokens, preferred first.
        ops: plain ops that it has. A model that needs another one is refused by name, unless the device is made of
            an op library (`GraphExecutor`): there the reference runs it where it can, and it is listed at start.
            None at all: the device runs no graph (a stand-in for tests), and no op is asked of it.
        fused_ops: fused ops it wants; passes fire for these only.
        op_features: operands and attributes of ops that came after the op itself and that its kernels obey, of
            `quire.graph.ops.OP_FEATURES`; a graph that uses another one is refused.
        group_kinds: cache kinds ("full", "sliding", ...).
        max_num_batched_tokens, max_num_seqs: most tokens and sequences in one step; None = no limit of its own.
        default_num_batched_tokens, default_num_seqs: the engine's defaults on this device, chosen by measurement.
        default_memory_utilization: share of the device's memory the engine takes unless told otherwise; host
            devices, whose memory other programs need, declare less.
        shares_host_memory: the KV cache lies in memory that other programs need: unless told otherwise the engine
            takes no more of it than max_num_seqs sequences of max_model_len can use.
        async_depth: steps that may be submitted before the first one's result is read; 1 = no overlap.
        device_sampling: features of `quire.sampling.batch.FEATURES` done by the device.
        row_determinism: "batch_invariant": a row's bits do not depend on the rest of the batch;
            "run_to_run": equal batches give equal bits; "none".
        read_write_blocks: KV pages can be read to and written from the host.
        collectives: "all_reduce", "all_gather" where tensor parallelism works. max_tp: largest degree.
        extensions: what only this backend has, "vendor.feature" -> value; `quire devices NAME` lists it. Since 1.2.
    """

    contract: tuple[int, int]
    act_dtypes: tuple[str, ...]
    weight_dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    block_sizes: tuple[int, ...]
    ops: frozenset[str]
    weight_schemes: frozenset[str] = frozenset({"plain"})
    fused_ops: frozenset[str] = frozenset()
    op_features: frozenset[str] = frozenset()
    group_kinds: frozenset[str] = frozenset({"full", "sliding"})
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    default_num_batched_tokens: int = 2048
    default_num_seqs: int = 256
    default_memory_utilization: float = 0.9
    shares_host_memory: bool = False
    async_depth: int = 1
    device_sampling: frozenset[str] = frozenset()
    row_determinism: RowDeterminism = "none"
    read_write_blocks: bool = False
    collectives: frozenset[str] = frozenset()
    max_tp: int = 1
    extensions: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What `probe` found. Probing never raises and never imports a framework if it can help it.

    Attributes:
        available: the device can be used now. reason: why not, or "" when available.
        name: the hardware's name for people. num_devices: how many.
        total_memory_bytes, free_memory_bytes: of one device; 0 = unknown.
        driver: driver or runtime version, "" = none.
        priority: higher is tried first by `--device auto`; below 0, never: the device is chosen by name only.
    """

    available: bool
    reason: str = ""
    name: str = ""
    num_devices: int = 0
    total_memory_bytes: int = 0
    free_memory_bytes: int = 0
    driver: str = ""
    priority: int = 0
    details: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLimits:
    """What the machine can do at best, measured now; benchmarks print their figures beside it.

    Attributes:
        read_bytes_per_s: memory reads with as many streams as it takes.
        flops_per_s: in the dtype of the description, multiply-adds count two.
        description: how it was measured.
        single_stream_bytes_per_s: memory reads with one sequential stream a thread.
        bf16_flops_per_s: bfloat16 products added to float32, where flops_per_s is not of them.
        int8_ops_per_s: products of 8-bit integers added to 32-bit ones; multiply-adds count two.
            The last three are None where the device does not measure them, or has no instruction for them.
    """

    read_bytes_per_s: float
    flops_per_s: float
    single_stream_bytes_per_s: float | None = None
    bf16_flops_per_s: float | None = None
    int8_ops_per_s: float | None = None
    description: str = ""
