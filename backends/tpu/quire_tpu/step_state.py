"""What kernels see while a step is traced: per-token indices, block tables, rotary tables, and caches as values.

Shapes: T tokens, S sequences, B blocks a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from quire.graph.rope import RopeSpec


@dataclass(frozen=True, slots=True)
class StackedCache:
    """A cache value: layer `layer` (maybe traced) of arrays [layers, blocks + 1, block_size, KV * d] by name.

    Layers share one array, so that a scan carries it whole and updates it in place: as a scanned input and output it
    would be copied every step.
    """

    group: str
    layer: jax.Array | int
    arrays: Mapping[str, jax.Array]


@dataclass(frozen=True, slots=True)
class StepState:
    """A step's arrays inside the trace.

    Attributes:
        seq_ids, kv_index, positions: int32 [T].
        query_start_loc: int32 [S+1]. num_computed, seq_lens: int32 [S].
        block_tables: by group, int32 [S, B]; `trash` where a block is not resident.
        block_size: tokens per block. trash: id of the block that padding writes to; nothing reads it.
        rope: rotary tables cos and sin, float32 [max_model_len, r/2].
    """

    seq_ids: jax.Array
    kv_index: jax.Array
    positions: jax.Array
    query_start_loc: jax.Array
    num_computed: jax.Array
    seq_lens: jax.Array
    block_tables: Mapping[str, jax.Array]
    block_size: int
    trash: Mapping[str, int]
    rope: Mapping[RopeSpec, tuple[jax.Array, jax.Array]]

    @staticmethod
    def derive(
        arrays: Mapping[str, jax.Array],
        trash: Mapping[str, int],
        block_size: int,
        rope: Mapping[RopeSpec, tuple[jax.Array, jax.Array]],
    ) -> StepState:
        """The state that follows from a step's arrays (`step_inputs.unpack`) and each group's trash block."""
        starts, num_computed = arrays["query_start_loc"], arrays["num_computed"]
        token = jnp.arange(arrays["token_ids"].shape[0], dtype=jnp.int32)
        seq_ids = jnp.searchsorted(starts[1:], token, side="right", method="compare_all").astype(jnp.int32)
        kv_index = num_computed[seq_ids] + token - starts[seq_ids]
        return StepState(
            seq_ids=seq_ids,
            kv_index=kv_index,
            positions=arrays.get("positions", kv_index),
            query_start_loc=starts,
            num_computed=num_computed,
            seq_lens=num_computed + starts[1:] - starts[:-1],
            block_tables={
                group: jnp.where(arrays[f"{group}.block_tables"] < 0, block, arrays[f"{group}.block_tables"])
                for group, block in trash.items()
            },
            block_size=block_size,
            trash=trash,
            rope=rope,
        )

    def slots(self, group: str) -> tuple[jax.Array, jax.Array]:
        """Block id and offset in it of every token, int32 [T] each. Padding beyond the table stays in the trash."""
        table = self.block_tables[group]
        column = jnp.minimum(self.kv_index // self.block_size, table.shape[1] - 1)
        return table[self.seq_ids, column], self.kv_index % self.block_size
