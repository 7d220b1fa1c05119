"""The `reference` device: every op in numpy, obviously right, on any machine; made for tests and comparison.

It computes one row at a time with a fixed order of additions, so a row's bits never depend on its batch, and it
fills fresh caches with NaN, so that reading what was never written cannot pass unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device.capabilities import CONTRACT_VERSION, Capabilities, DeviceReport
from quire.device.contract import CacheHandle, Executor, ExecutorPlan, Kernel, StepContext
from quire.device.dtypes import numpy_dtype
from quire.device.graph_executor import GraphExecutor
from quire.device.hookspecs import hookimpl
from quire.device.host_memory import host_memory
from quire.device.option_spec import OptionSpec
from quire.graph.ir import Graph, KVGroupSpec, Node, Weight
from quire.graph.kv_arrays import held_arrays
from quire.graph.ops import OP_FEATURES, PLAIN_OPS
from quire.graph.shapes import concrete
from quire.reference.lowering import lower_reference
from quire.sampling.batch import I32
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme, dequantize

_FLOATS = ("float32", "bfloat16", "float16")

_GROUPS = (0, 16, 32, 64, 128, 256)
_SCHEMES = frozenset(
    {
        PLAIN,
        *(WeightScheme(8, group).name for group in _GROUPS),
        *(WeightScheme(4, group, zeros).name for group in _GROUPS for zeros in (False, True)),
    }
)

QUIRE_CONTRACT = (1, 2)
"""Version of the device contract this module is written for; read before any hook is called."""

CAPABILITIES = Capabilities(
    contract=CONTRACT_VERSION,
    act_dtypes=_FLOATS,
    weight_dtypes=_FLOATS,
    kv_dtypes=(*_FLOATS, "int8"),
    block_sizes=(16, 32, 8, 4, 2, 1, 64, 128, 256),
    ops=PLAIN_OPS,
    op_features=OP_FEATURES,
    weight_schemes=_SCHEMES,
    row_determinism="batch_invariant",
    default_num_seqs=32,
    default_memory_utilization=0.5,
    shares_host_memory=True,
    read_write_blocks=True,
)
"""What the reference declares. It lowers the fused ops too, but asks for none: it runs graphs as written."""


class ReferenceLibrary:
    """The op library of the reference; a `QuantizedLibrary` whose arrays are numpy's."""

    capabilities = CAPABILITIES
    name = "reference"

    def __init__(self) -> None:
        self._held_bytes = 0

    def put(self, array: np.ndarray, dtype: str | None = None) -> np.ndarray:
        """The array itself, or converted."""
        return array if dtype is None else array.astype(numpy_dtype(dtype), copy=False)

    def get(self, array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def put_weight(self, weight: Weight, array: np.ndarray, dtype: str) -> np.ndarray:
        """A contiguous copy, rounded to `dtype`."""
        held = np.array(array, dtype=numpy_dtype(dtype), order="C")
        self._held_bytes += held.nbytes
        return held

    def put_quantized(self, weight: Weight, matrix: QuantizedMatrix, shape: tuple[int, ...]) -> np.ndarray:
        """Its values in float32: what the integers stand for is all that a result may depend on."""
        held = dequantize(matrix).reshape(shape)
        self._held_bytes += held.nbytes
        return held

    def create_cache(
        self, group: KVGroupSpec, axis_sizes: Mapping[str, int], num_blocks: int, block_size: int, dtype: str
    ) -> dict[str, np.ndarray]:
        """[blocks, block_size, *shape_per_token] each, filled with NaN; int8 with -128, and its scales with NaN.

        It begins without blocks and grows up to `num_blocks`, as they are used. Raises MemoryError for more than the
        machine has.
        """
        empty = {
            array.name: np.full((0, block_size, *concrete(array.shape, axis_sizes)), 0, numpy_dtype(array.dtype))
            for array in held_arrays(group, dtype)
        }
        num_bytes = (
            num_blocks * block_size * sum(array.itemsize * math.prod(array.shape[2:]) for array in empty.values())
        )
        total, _ = host_memory()
        if total and num_bytes > total:
            raise MemoryError(f"{num_bytes / 2**30:.1f} GiB; this machine has {total / 2**30:.1f} GiB")
        self._held_bytes += num_bytes
        return GrowingCache(empty, num_blocks)

    def copy_blocks(self, cache: Mapping[str, np.ndarray], copies: I32) -> None:
        """Every destination gets what its source held before the call."""
        _cover(cache, copies)
        for array in cache.values():
            array[copies[:, 1]] = array[copies[:, 0]]

    def read_blocks(self, cache: Mapping[str, np.ndarray], block_ids: I32) -> dict[str, np.ndarray]:
        """[n, block_size, *shape_per_token] each; copies."""
        _cover(cache, block_ids)
        return {name: array[block_ids] for name, array in cache.items()}

    def write_blocks(self, cache: Mapping[str, np.ndarray], block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        _cover(cache, block_ids)
        for name, array in cache.items():
            array[block_ids] = pages[name]

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel:
        """The numpy function of the node's op."""
        kernel = lower_reference(node, graph, plan)
        cache_input = next((i for i, v in enumerate(node.inputs) if v >= 0 and graph.values[v].dtype == "cache"), None)
        if cache_input is None:
            return kernel

        def covered(context: StepContext, inputs: tuple[Any, ...], weights: tuple[Any, ...]) -> tuple[Any, ...]:
            handle: CacheHandle = inputs[cache_input]
            _cover(handle.arrays, context.device[f"{handle.group}.block_tables"])
            return kernel(context, inputs, weights)

        return covered

    def memory(self) -> tuple[int, int]:
        """(bytes of weights and caches handed out, bytes free on the host)."""
        return self._held_bytes, host_memory()[1]


class GrowingCache(dict[str, np.ndarray]):
    """Arrays of one layer slot, by name, as far as blocks are used.

    Attributes:
        num_blocks: as many as there may be.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], num_blocks: int) -> None:
        super().__init__(arrays)
        self.num_blocks = num_blocks

    def cover(self, num_blocks: int) -> None:
        """Room for blocks below `num_blocks`; what is new is filled with what must not be read."""
        for name, array in self.items():
            if num_blocks > len(array):
                fresh = -128 if array.dtype == np.int8 else np.nan
                grown = np.full(
                    (min(self.num_blocks, max(2 * len(array), num_blocks)), *array.shape[1:]), fresh, array.dtype
                )
                grown[: len(array)] = array
                self[name] = grown


def _cover(cache: Mapping[str, np.ndarray], block_ids: np.ndarray) -> None:
    assert isinstance(cache, GrowingCache)
    if block_ids.size:
        cache.cover(int(block_ids.max()) + 1)


@hookimpl
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:
    """Always there; too slow for `auto` to choose it."""
    total, free = host_memory()
    return DeviceReport(
        available=True,
        name="numpy on the host",
        num_devices=1,
        total_memory_bytes=total,
        free_memory_bytes=free,
        driver=f"numpy {np.__version__}",
        priority=-100,
    )


@hookimpl
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:
    """What the reference can do; it has no options."""
    return CAPABILITIES


@hookimpl
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:
    """A graph executor over the reference library."""
    return GraphExecutor(ReferenceLibrary(), plan)


@hookimpl
def quire_options(device: str) -> tuple[OptionSpec, ...]:
    """None at all."""
    return ()
