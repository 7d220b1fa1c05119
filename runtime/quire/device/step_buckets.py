"""The fixed shapes that steps are padded to: few, since a compiler makes one program for each and keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quire.device.batch import StepBatch, pad, token_indices
from quire.device.contract import ExecutorPlan
from quire.device.step_vector import StepShape


@dataclass(frozen=True, slots=True)
class StepBuckets:
    """Sizes of each kind, ascending; the last ones hold the plan's limits.

    Attributes:
        logits: least rows of the head in one slice. max_logits: most; what a step has beyond them runs in more slices.
    """

    tokens: tuple[int, ...]
    seqs: tuple[int, ...]
    blocks: tuple[int, ...]
    logits: int
    max_logits: int

    @staticmethod
    def of(
        plan: ExecutorPlan,
        *,
        tokens: int = 32,
        seqs: int = 8,
        blocks: int = 32,
        logits: int = 32,
        growth: int = 4,
    ) -> StepBuckets:
        """A plan's buckets, from the smallest sizes upwards in steps of `growth`.

        One sequence more than the plan's limit is for padding tokens.
        """
        most_blocks = -(-plan.max_model_len // plan.block_size)
        return StepBuckets(
            tokens=_sizes(tokens, growth, plan.max_num_batched_tokens),
            seqs=_sizes(seqs, growth, plan.max_num_seqs + 1),
            blocks=_sizes(blocks, growth, most_blocks),
            logits=min(logits, plan.max_logits_rows),
            max_logits=plan.max_logits_rows,
        )

    def shape(self, batch: StepBatch) -> StepShape:
        """The smallest bucket that holds the batch; its logits rows are those of one slice of the head."""
        tokens = fitting(self.tokens, batch.num_tokens)
        seqs = fitting(self.seqs, batch.num_seqs + (batch.num_tokens < tokens))
        width = max((group.block_tables.shape[1] for group in batch.groups.values()), default=1)
        few = min(max(seqs, self.logits), self.max_logits)
        num_rows = 0 if batch.sampling is None else batch.sampling.num_rows
        return StepShape(
            tokens,
            seqs,
            fitting(self.blocks, width),
            few if len(batch.logits_indices) <= few else self.max_logits,
            seqs if num_rows <= seqs else fitting(self.seqs, num_rows),
            tuple(sorted(batch.groups)),
            batch.positions is not None,
        )


def fitting(sizes: tuple[int, ...], count: int) -> int:
    """The first size that is large enough; beyond the last one, its next doubling that is."""
    for size in sizes:
        if size >= count:
            return size
    size = sizes[-1]
    while size < count:
        size *= 2
    return size


def pad_to(batch: StepBatch, shape: StepShape, trash: Mapping[str, int]) -> StepBatch:
    """The batch in the shape of its bucket, with the first slice of logits rows and without copies.

    Padding tokens stand at position 0, whatever their number, and write to their group's trash block.
    """
    if batch.positions is None:
        batch = replace(batch, positions=token_indices(batch)[1])
    return pad(
        replace(batch, logits_indices=batch.logits_indices[: shape.logits], copies={}),
        num_tokens=shape.tokens,
        num_seqs=shape.seqs,
        num_logits=shape.logits,
        max_blocks=shape.blocks,
        trash=trash,
    )


def slice_rows(batch: StepBatch, shape: StepShape, number: int) -> tuple[np.ndarray, int]:
    """int32 [shape.logits]: the rows of slice `number` of the head, padded with row 0; and how many count."""
    wanted = batch.logits_indices[number * shape.logits :][: shape.logits]
    rows = np.zeros(shape.logits, np.int32)
    rows[: len(wanted)] = wanted
    return rows, len(wanted)


def _sizes(first: int, growth: int, most: int) -> tuple[int, ...]:
    sizes = [min(first, most)]
    while sizes[-1] < most:
        sizes.append(min(sizes[-1] * growth, most))
    return tuple(sizes)
