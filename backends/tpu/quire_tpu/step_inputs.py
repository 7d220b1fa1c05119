"""A step's arrays as one int32 vector: one transfer to the device, taken apart again inside the compiled step.

Shapes: T tokens, S sequences, B blocks a sequence, L logits rows, R sampled rows, all of the bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from quire.device.batch import StepBatch
from quire.sampling.batch import I32, SamplingBatch
from quire.sampling.filters import min_p_threshold

_FLOATS = ("temperature", "top_p", "min_score")
_UNSIGNED = ("seed_low", "seed_high", "sequence_index", "position")
_SAMPLING = (
    "rows",
    "temperature",
    "seed_low",
    "seed_high",
    "sequence_index",
    "position",
    "top_k",
    "top_p",
    "min_score",
)


@dataclass(frozen=True, slots=True)
class StepShape:
    """One bucket; hashable, a static argument of the compiled step.

    Attributes:
        groups: names of the KV groups. positions: the batch brings positions of its own.
    """

    tokens: int
    seqs: int
    blocks: int
    logits: int
    rows: int
    groups: tuple[str, ...]
    positions: bool = False

    def fields(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every array, in the vector's order."""
        yield "token_ids", (self.tokens,)
        yield "query_start_loc", (self.seqs + 1,)
        yield "num_computed", (self.seqs,)
        yield "prev_row", (self.seqs,)
        yield "logits_indices", (self.logits,)
        for group in self.groups:
            yield f"{group}.block_tables", (self.seqs, self.blocks)
        if self.positions:
            yield "positions", (self.tokens,)
        for name in _SAMPLING:
            yield name, (self.rows,)

    @property
    def size(self) -> int:
        """Elements of the vector."""
        return sum(int(np.prod(shape)) for _, shape in self.fields())


def pack(batch: StepBatch, shape: StepShape) -> I32:
    """The vector of a batch that was padded to `shape` already."""
    arrays: dict[str, np.ndarray] = {
        "token_ids": batch.token_ids,
        "query_start_loc": batch.query_start_loc,
        "num_computed": batch.num_computed,
        "prev_row": batch.prev_row,
        "logits_indices": batch.logits_indices,
        **{f"{name}.block_tables": group.block_tables for name, group in batch.groups.items()},
        **_sampling_arrays(batch.sampling, shape.rows),
    }
    if batch.positions is not None:
        arrays["positions"] = batch.positions
    vector = np.empty(shape.size, np.int32)
    start = 0
    for name, field in shape.fields():
        stop = start + int(np.prod(field))
        vector[start:stop] = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.int32)
        start = stop
    return vector


def unpack(vector: jax.Array, shape: StepShape) -> Mapping[str, jax.Array]:
    """The vector's arrays by name, inside the compiled step: int32, uint32 keys of draws, float32."""
    arrays: dict[str, jax.Array] = {}
    start = 0
    for name, field in shape.fields():
        stop = start + int(np.prod(field))
        array = vector[start:stop].reshape(field)
        if name in _FLOATS:
            array = lax.bitcast_convert_type(array, jnp.float32)
        elif name in _UNSIGNED:
            array = lax.bitcast_convert_type(array, jnp.uint32)
        arrays[name] = array
        start = stop
    return arrays


def _sampling_arrays(batch: SamplingBatch | None, num_rows: int) -> dict[str, np.ndarray]:
    """Every field [R]; padding rows are greedy ones of logits row 0."""

    def padded(values: Any, default: float, dtype: type) -> np.ndarray:
        out: np.ndarray = np.full(num_rows, default, dtype)
        if values is not None:
            out[: len(values)] = values
        return out

    seed = None if batch is None else batch.seed
    low, high = (None, None) if seed is None else (seed & np.uint64(0xFFFFFFFF), seed >> np.uint64(32))
    min_p = None if batch is None or batch.min_p is None else [min_p_threshold(float(p)) for p in batch.min_p]
    return {
        "rows": padded(batch and batch.rows, 0, np.int32),
        "temperature": padded(batch and batch.temperature, 0.0, np.float32),
        "seed_low": padded(low, 0, np.uint32),
        "seed_high": padded(high, 0, np.uint32),
        "sequence_index": padded(batch and batch.sequence_index, 0, np.uint32),
        "position": padded(batch and batch.position, 0, np.uint32),
        "top_k": padded(batch and batch.top_k, 0, np.int32),
        "top_p": padded(batch and batch.top_p, 1.0, np.float32),
        "min_score": padded(min_p, -np.inf, np.float32),
    }
