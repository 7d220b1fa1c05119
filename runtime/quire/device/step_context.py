"""The arrays that every kernel of a step shares, derived once and put on the device once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quire.device.batch import StepBatch, derive, token_indices
from quire.device.contract import StepContext


def step_context(batch: StepBatch, block_size: int, put: Callable[[np.ndarray], Any]) -> StepContext:
    """The context of one step: `StepContext.device` as its docstring lists it, each array put on the device."""
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
    device = {name: put(np.ascontiguousarray(array, np.int32)) for name, array in arrays.items()}
    return StepContext(batch, block_size, device)
