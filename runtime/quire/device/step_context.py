"""The arrays that every kernel of a step shares, derived once and put on the device once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quire.device.batch import StepBatch, derive, token_indices
from quire.device.contract import StepContext
from quire.device.step_vector import StepField, StepLayout
from quire.sampling.batch import I32


def step_context(
    batch: StepBatch,
    block_size: int,
    put: Callable[[np.ndarray], Any],
    put_step: Callable[[I32, StepLayout], Mapping[str, Any]] | None = None,
) -> StepContext:
    """The context of one step: `StepContext.device` as its docstring lists it.

    Args:
        put: puts one array on the device. put_step: puts all of them there in one copy; used where it is given.
    """
    arrays = {name: np.ascontiguousarray(array, np.int32) for name, array in _arrays(batch, block_size).items()}
    if put_step is None:
        return StepContext(batch, block_size, {name: put(array) for name, array in arrays.items()})
    layout = StepLayout(tuple(StepField(name, array.shape) for name, array in arrays.items()))
    return StepContext(batch, block_size, put_step(layout.pack(arrays), layout))


def _arrays(batch: StepBatch, block_size: int) -> dict[str, np.ndarray]:
    seq_ids, kv_index = token_indices(batch)
    arrays = {
        "positions": kv_index if batch.positions is None else batch.positions,
        "query_start_loc": batch.query_start_loc,
        "num_computed": batch.num_computed,
        "seq_lens": batch.seq_lens,
        "seq_ids": seq_ids,
        "kv_index": kv_index,
    }
    for name, group in batch.groups.items():
        arrays[f"{name}.block_tables"] = group.block_tables
        arrays[f"{name}.slots"] = derive(batch, name, block_size).slots
    return arrays
