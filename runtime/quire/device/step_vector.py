"""A step as one vector: its arrays in a row in one int32 array, taken apart by a layout that is data.

One array is one copy to a device, one argument of a compiled program, and one message to another rank.
Shapes: T tokens, S sequences, B blocks a sequence, L logits rows, R sampled rows, all of the bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, Literal

import numpy as np

from quire.device.batch import StepBatch
from quire.sampling.batch import I32, SamplingBatch

FieldDtype = Literal["int32", "uint32", "float32"]
"""All have four bytes; the vector holds their bits."""

_SAMPLING_FIELDS: Mapping[str, FieldDtype] = {
    "rows": "int32",
    "temperature": "float32",
    "seed_low": "uint32",
    "seed_high": "uint32",
    "sequence_index": "uint32",
    "position": "uint32",
    "top_k": "int32",
    "top_p": "float32",
    "min_score": "float32",
}


@dataclass(frozen=True, slots=True)
class StepField:
    """One array of a step."""

    name: str
    shape: tuple[int, ...]
    dtype: FieldDtype = "int32"

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class StepLayout:
    """Where each array lies in a vector: one behind the other, each at 16 bytes. Hashable: a compiler may key on it."""

    fields: tuple[StepField, ...]

    @cached_property
    def size(self) -> int:
        """Elements of the vector."""
        return sum(_aligned(field.size) for field in self.fields)

    def places(self) -> Iterator[tuple[StepField, int]]:
        """Every field and the element at which it begins."""
        start = 0
        for field in self.fields:
            yield field, start
            start += _aligned(field.size)

    def pack(self, arrays: Mapping[str, np.ndarray]) -> I32:
        """int32 [size]: the bits of every array. Raises ValueError for one that is missing or of another shape."""
        vector = np.zeros(self.size, np.int32)
        for field, start in self.places():
            array = arrays.get(field.name)
            if array is None or array.shape != field.shape:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise ValueError(f"{field.name} is {found}, the layout has {field.shape}")
            held = np.ascontiguousarray(array, field.dtype)
            vector[start : start + field.size] = held.reshape(-1).view(np.int32)
        return vector

    def unpack(self, vector: I32) -> dict[str, np.ndarray]:
        """Views of a host vector, by name."""
        return {
            field.name: vector[start : start + field.size].view(field.dtype).reshape(field.shape)
            for field, start in self.places()
        }


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


@dataclass(frozen=True, slots=True)
class StepShape:
    """The sizes of a step, padded or exact; hashable.

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

    def layout(self) -> StepLayout:
        """Every array of a step of this shape, as `pack_step` fills it."""
        return _layout(self)


@lru_cache(maxsize=256)  # a step is packed by it, and there are few shapes
def _layout(shape: StepShape) -> StepLayout:
    fields = [
        StepField("token_ids", (shape.tokens,)),
        StepField("query_start_loc", (shape.seqs + 1,)),
        StepField("num_computed", (shape.seqs,)),
        StepField("prev_row", (shape.seqs,)),
        StepField("logits_indices", (shape.logits,)),
        *(StepField(f"{group}.block_tables", (shape.seqs, shape.blocks)) for group in shape.groups),
    ]
    if shape.positions:
        fields.append(StepField("positions", (shape.tokens,)))
    fields += [StepField(name, (shape.rows,), dtype) for name, dtype in _SAMPLING_FIELDS.items()]
    return StepLayout(tuple(fields))


def pack_step(batch: StepBatch, shape: StepShape) -> I32:
    """The vector of a batch that was padded to `shape` already.

    Sampling arrays [R] are padded here: rows beyond the batch's are greedy ones of logits row 0. Of them `min_score` is
    the least logit, relative to the highest, that min_p keeps; a seed comes as its two halves.
    """
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
    return shape.layout().pack(arrays)


def _sampling_arrays(batch: SamplingBatch | None, num_rows: int) -> dict[str, np.ndarray]:
    from quire.sampling.filters import min_p_threshold  # here, so that importing the contract stays light

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
