"""The device `template_ops`: arrays, a cache layout and kernels. Quire's GraphExecutor makes an executor of them.

Replace numpy by your device's arrays: `put` and `get` are the only places where data crosses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device import (
    CacheHandle,
    Capabilities,
    DeviceReport,
    Executor,
    ExecutorPlan,
    GraphExecutor,
    Kernel,
    OptionSpec,
    StepContext,
    hookimpl,
    numpy_dtype,
)
from quire.graph.ir import Graph, KVGroupSpec, Node, Weight
from quire.graph.shapes import concrete
from quire_template.host_memory import host_memory
from quire_template.kernels import KERNELS, paged_attention

NAME = "template_ops"

QUIRE_CONTRACT = (1, 2)
"""The version of the contract this module is written for: Quire reads it before it calls any hook."""

QUIRE_CONFORMANCE_GAPS: dict[str, str] = {}
"""Case pattern -> reason, for `quire conform`: what is known not to work yet. A gap that is mended must go."""

CAPABILITIES = Capabilities(
    contract=QUIRE_CONTRACT,
    act_dtypes=("float32",),
    weight_dtypes=("float32",),
    kv_dtypes=("float32",),
    block_sizes=(16, 32, 8),
    ops=frozenset(KERNELS) | {"cache_write", "paged_attention"},
    default_num_batched_tokens=512,
    default_num_seqs=32,
    default_memory_utilization=0.5,
    shares_host_memory=True,
    row_determinism="run_to_run",
    read_write_blocks=True,
)
"""Data, not code, answers what the engine asks. What is not declared is not used."""


class TemplateLibrary:
    """An `OpLibrary` of `quire.device`. A layer's cache is [num_blocks, kv_heads, block_size, head_dim]."""

    capabilities = CAPABILITIES
    name = NAME

    def __init__(self) -> None:
        self._held_bytes = 0

    def put(self, array: np.ndarray, dtype: str | None = None) -> np.ndarray:
        """To the device."""
        return array if dtype is None else array.astype(numpy_dtype(dtype), copy=False)

    def get(self, array: np.ndarray) -> np.ndarray:
        """To the host."""
        return array

    def put_weight(self, weight: Weight, array: np.ndarray, dtype: str) -> np.ndarray:
        """A copy in the form that the kernels want: `array` is often a read-only view of a file. Pack here."""
        held = np.array(array, numpy_dtype(dtype), order="C")
        self._held_bytes += held.nbytes
        return held

    def create_cache(
        self, group: KVGroupSpec, axis_sizes: Mapping[str, int], num_blocks: int, block_size: int, dtype: str
    ) -> dict[str, np.ndarray]:
        """One layer's arrays. The layout is this library's own business: here, heads stand before tokens."""
        cache = {}
        for array in group.arrays:
            num_kv_heads, head_dim = concrete(array.shape, axis_sizes)
            cache[array.name] = np.empty((num_blocks, num_kv_heads, block_size, head_dim), numpy_dtype(dtype))
            self._held_bytes += cache[array.name].nbytes
        return cache

    def copy_blocks(self, cache: Mapping[str, np.ndarray], copies: np.ndarray) -> None:
        """[n, 2] (source, destination); the right side is read whole before anything is written."""
        for array in cache.values():
            array[copies[:, 1]] = array[copies[:, 0]]

    def read_blocks(self, cache: Mapping[str, np.ndarray], block_ids: np.ndarray) -> dict[str, np.ndarray]:
        """In the host format [n, block_size, kv_heads, head_dim], which all devices share."""
        return {name: array[block_ids].swapaxes(1, 2) for name, array in cache.items()}

    def write_blocks(
        self, cache: Mapping[str, np.ndarray], block_ids: np.ndarray, pages: Mapping[str, np.ndarray]
    ) -> None:
        """The inverse of `read_blocks`."""
        for name, array in cache.items():
            array[block_ids] = pages[name].swapaxes(1, 2)

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:
        """The node's kernel; None = no such op here, the reference runs it and the placement table says so."""
        if node.op == "cache_write":
            return _write_to_cache
        if node.op == "paged_attention":
            return paged_attention(node, _gather)
        return KERNELS[node.op](node, plan) if node.op in KERNELS else None

    def memory(self) -> tuple[int, int]:
        """(bytes in use, bytes free): from these the core works out how many blocks fit."""
        return self._held_bytes, host_memory()[1]


def _write_to_cache(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[CacheHandle]:
    """k and v [T, kv_heads, head_dim] to their slots; a slot of -1 is not written. The cache is a value: return it."""
    cache, *rows = inputs
    slots = context.device[f"{cache.group}.slots"]
    kept = slots >= 0
    blocks, offsets = np.divmod(slots[kept], context.block_size)
    for name, values in zip(("k", "v"), rows, strict=True):
        cache.arrays[name][blocks, :, offsets] = values[kept]
    return (cache,)


def _gather(cache: CacheHandle, block_ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k and v [kv_heads, m, head_dim] of the tokens at these places."""
    k, v = (cache.arrays[name][block_ids, :, offsets].swapaxes(0, 1) for name in ("k", "v"))
    return k, v


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Is the device here? Cheap, never raises; `available=False` comes with a reason."""
    total, free = host_memory()
    return DeviceReport(
        available=True,
        name="numpy template, op level",
        num_devices=1,
        total_memory_bytes=total,
        free_memory_bytes=free,
        driver=f"numpy {np.__version__}",
        priority=-200,
    )


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What it can do."""
    return CAPABILITIES


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """GraphExecutor checks the plan, lowers the graph, loads weights, keeps the caches, samples."""
    return GraphExecutor(TemplateLibrary(), plan)


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """`OptionSpec`s of what a user may set; Quire refuses all else, and `quire devices NAME` lists them. Here: none."""
    return ()
