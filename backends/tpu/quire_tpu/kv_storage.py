"""The KV cache: one array for all layer slots of the groups that share it, donated to every step and taken back.

Arrays are [layers, blocks + 1, block_size, KV * d] (with several ranks, a leading axis of ranks): a token's heads lie
side by side, so that one row is one write. The last block is for padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quire.device.contract import ExecutorPlan, KVPlan
from quire.device.dtypes import numpy_dtype
from quire.errors import BackendError
from quire.graph.ir import KVGroupSpec
from quire.graph.shapes import concrete
from quire.graph.shard import axis_range
from quire.sampling.batch import I32
from quire_tpu.layer_stack import Storages
from quire_tpu.program import StepProgram, storage_names


def storage_shapes(plan: ExecutorPlan, num_blocks: Mapping[str, int]) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Shape and dtype of every storage array of one rank."""
    groups, sizes = plan.model.kv_groups, plan.model.axis_sizes()
    names = storage_names(groups)
    shapes: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    for name in dict.fromkeys(names.values()):
        group = groups[name]
        layers = max(groups[member].layers for member, storage in names.items() if storage == name)
        shapes[name] = {
            array.name: jax.ShapeDtypeStruct(
                (layers, num_blocks[group.pool] + 1, plan.block_size, int(np.prod(concrete(array.shape, sizes)))),
                numpy_dtype("float32" if array.dtype == "f32" else plan.kv_dtype),
            )
            for array in group.arrays
        }
    return shapes


class KVStorage:
    """Allocates the storages, and moves and copies their blocks.

    Attributes:
        arrays: what the next step takes; the executor puts back what a step returns.
    """

    def __init__(self, program: StepProgram, kv_plan: KVPlan) -> None:
        self._program, self._plan = program, program.plan
        self._names = storage_names(self._plan.model.kv_groups)
        for name, group in self._plan.model.kv_groups.items():
            if group.pool not in kv_plan.num_blocks:
                raise BackendError(
                    f"KV group {name}: no number of blocks for its pool {group.pool!r}",
                    because=f"the KV plan has {', '.join(sorted(kv_plan.num_blocks)) or 'no pools'}",
                )
        shapes = storage_shapes(self._plan, kv_plan.num_blocks)
        try:
            self.arrays: Storages = jax.tree.map(self._zeros, shapes)
            jax.block_until_ready(self.arrays)
        except jax.errors.JaxRuntimeError as error:
            wanted = sum(int(np.prod(s.shape)) * s.dtype.itemsize for group in shapes.values() for s in group.values())
            raise BackendError(
                f"{wanted / 2**20:.0f} MiB of KV cache do not fit on the device",
                because=str(error).splitlines()[0],
                hint="a lower --memory-utilization",
            ) from error
        self._copy = jax.jit(self._copied, donate_argnums=0)
        self._write = jax.jit(self._written, donate_argnums=0)

    def copy_blocks(self, copies: Mapping[str, I32]) -> None:
        """Copies (source, destination) blocks in every layer slot of each group named."""
        for group, pairs in copies.items():
            if len(pairs):
                name = self._names[group]
                padded = np.repeat(pairs[:1], 1 << (len(pairs) - 1).bit_length(), axis=0)
                padded[: len(pairs)] = pairs  # the first copy again and again: one compilation for each power of two
                self.arrays[name] = self._copy(self.arrays[name], padded[:, 0], padded[:, 1])

    def read_blocks(self, group: str, block_ids: I32) -> dict[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token], of all ranks' heads."""
        spec = self._plan.model.kv_groups[group]
        held = self.arrays[self._names[group]]
        return {
            array.name: self._page(np.asarray(self._ranked(held[array.name])[:, : spec.layers, block_ids]), array)
            for array in spec.arrays
        }

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        spec, name = self._plan.model.kv_groups[group], self._names[group]
        rows = {array.name: self._rows(pages[array.name], spec, array) for array in spec.arrays}
        self.arrays[name] = self._write(self.arrays[name], np.asarray(block_ids), rows)

    def _zeros(self, spec: jax.ShapeDtypeStruct) -> jax.Array:
        ranks = self._program.world_size
        shape = spec.shape if ranks == 1 else (ranks, *spec.shape)
        return jnp.zeros(shape, spec.dtype, device=self._program.sharding(by_rank=True))

    def _ranked(self, array: jax.Array) -> jax.Array:
        return array[None] if self._program.world_size == 1 else array

    def _copied(self, storage: dict[str, jax.Array], sources: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        if self._program.world_size == 1:
            return {name: array.at[:, targets].set(array[:, sources]) for name, array in storage.items()}
        return {name: array.at[:, :, targets].set(array[:, :, sources]) for name, array in storage.items()}

    def _written(
        self,
        storage: dict[str, jax.Array],
        block_ids: jax.Array,
        rows: dict[str, Any],
    ) -> dict[str, jax.Array]:
        """Storage with rows [ranks, layers, n, block_size, KV * d] in its blocks."""
        if self._program.world_size == 1:
            return {
                name: array.at[: rows[name].shape[1], block_ids].set(rows[name][0]) for name, array in storage.items()
            }
        return {name: array.at[:, : rows[name].shape[1], block_ids].set(rows[name]) for name, array in storage.items()}

    def _page(self, rows: np.ndarray, array: Any) -> np.ndarray:
        """Rows [ranks, layers, n, block_size, KV * d] as a page of the host format."""
        sizes = self._plan.model.axis_sizes()
        parts = rows.reshape(*rows.shape[:4], *concrete(array.shape, sizes)).swapaxes(1, 2)
        return np.concatenate(
            [parts[rank][:, :, :, : stop - start] for rank, start, stop in self._owners(array)], axis=3
        )

    def _rows(self, page: np.ndarray, spec: KVGroupSpec, array: Any) -> np.ndarray:
        """The inverse of `_page`; replicas of a head get it all."""
        ranks = self._program.world_size
        axis = self._cut_axis(array)
        spans = [axis_range(axis, rank, ranks) if axis else (0, page.shape[3]) for rank in range(ranks)]
        parts = np.stack([page[:, :, :, start:stop] for start, stop in spans]).swapaxes(1, 2)
        return parts.reshape(*parts.shape[:4], -1)

    def _owners(self, array: Any) -> list[tuple[int, int, int]]:
        """(rank, start, stop) of each head range, every head once."""
        axis, ranks = self._cut_axis(array), self._program.world_size
        if axis is None:
            return [(0, 0, concrete(array.shape, self._plan.model.axis_sizes())[0])]
        first: dict[tuple[int, int], int] = {}
        for rank in range(ranks):
            first.setdefault(axis_range(axis, rank, ranks), rank)
        return [(rank, start, stop) for (start, stop), rank in sorted(first.items())]

    def _cut_axis(self, array: Any) -> Any:
        axes = [self._plan.model.axes[symbol] for symbol in array.shape[0].symbols]
        return next((axis for axis in axes if axis.full is not None), None)
