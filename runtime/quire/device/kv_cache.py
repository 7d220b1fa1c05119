"""The KV cache of a graph executor: one storage for each layer slot, made by the op library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.device.contract import CacheHandle, ExecutorPlan, KVPlan, OpLibrary
from quire.errors import BackendError
from quire.graph.ir import CacheRef
from quire.sampling.batch import I32


class KVCache:
    """Caches of every group and slot of a plan.

    Groups of one pool whose arrays are equal share storage slot by slot: a block id belongs to one of them at a
    time, so that the pool's memory goes to whichever group needs it.

    Args:
        spare_blocks: blocks behind the plan's in every pool.
    Attributes:
        num_blocks: by group, the plan's; the id of the first spare block.
    """

    def __init__(self, library: OpLibrary, plan: ExecutorPlan, kv_plan: KVPlan, *, spare_blocks: int = 0) -> None:
        self._library = library
        self._groups = plan.model.kv_groups
        self.num_blocks: dict[str, int] = {}
        self._slots: dict[str, list[Mapping[str, Any]]] = {}
        storages: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        for name, group in self._groups.items():
            if group.pool not in kv_plan.num_blocks:
                raise BackendError(
                    f"KV group {name}: no number of blocks for its pool {group.pool!r}",
                    because=f"the KV plan has {', '.join(sorted(kv_plan.num_blocks)) or 'no pools'}",
                )
            num_blocks = kv_plan.num_blocks[group.pool]
            self.num_blocks[name] = num_blocks
            for slot in range(group.layers):
                key = (group.pool, group.arrays, slot)
                if key not in storages:
                    storages[key] = library.create_cache(
                        group, plan.model.axis_sizes(), num_blocks + spare_blocks, plan.block_size, plan.kv_dtype
                    )
                self._slots.setdefault(name, []).append(storages[key])

    def handle(self, ref: CacheRef) -> CacheHandle:
        """The cache value of a layer."""
        return CacheHandle(ref.group, ref.slot, self._slots[ref.group][ref.slot])

    def copy_blocks(self, copies: Mapping[str, I32]) -> None:
        """Copies (source, destination) blocks in every layer slot of each group named."""
        for group, pairs in copies.items():
            for storage in self._slots[group] if len(pairs) else ():
                self._library.copy_blocks(storage, pairs)

    def read_blocks(self, group: str, block_ids: I32) -> dict[str, np.ndarray]:
        """Pages in the host format: array name -> [n, layers, block_size, *shape_per_token]."""
        layers = [self._library.read_blocks(storage, block_ids) for storage in self._slots[group]]
        return {name: np.stack([pages[name] for pages in layers], axis=1) for name in layers[0]}

    def write_blocks(self, group: str, block_ids: I32, pages: Mapping[str, np.ndarray]) -> None:
        """The inverse of `read_blocks`."""
        for slot, storage in enumerate(self._slots[group]):
            self._library.write_blocks(storage, block_ids, {name: array[:, slot] for name, array in pages.items()})
