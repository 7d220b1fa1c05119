"""The fixed shapes that steps are padded to: few, since each is compiled once and kept."""

from __future__ import annotations

from dataclasses import dataclass

from quire.device.batch import StepBatch
from quire.device.contract import ExecutorPlan
from quire_tpu.step_inputs import StepShape

_FIRST_TOKENS, _FIRST_SEQS, _FIRST_BLOCKS, _FIRST_LOGITS = 32, 8, 32, 32
_TOKEN_GROWTH, _SEQ_GROWTH, _BLOCK_GROWTH = 4, 4, 4


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sizes of each kind, ascending; the last ones hold the plan's limits.

    Attributes:
        logits: most rows of one slice of the head.
    """

    tokens: tuple[int, ...]
    seqs: tuple[int, ...]
    blocks: tuple[int, ...]
    logits: int

    @staticmethod
    def of(plan: ExecutorPlan) -> Buckets:
        """The plan's buckets. One sequence more than the limit is for padding tokens."""
        most_blocks = -(-plan.max_model_len // plan.block_size)
        return Buckets(
            tokens=_sizes(_FIRST_TOKENS, _TOKEN_GROWTH, plan.max_num_batched_tokens),
            seqs=_sizes(_FIRST_SEQS, _SEQ_GROWTH, plan.max_num_seqs + 1),
            blocks=_sizes(_FIRST_BLOCKS, _BLOCK_GROWTH, most_blocks),
            logits=plan.max_logits_rows,
        )

    def shape(self, batch: StepBatch) -> StepShape:
        """The smallest bucket that holds the batch; its logits rows are those of one slice of the head."""
        tokens = fitting(self.tokens, batch.num_tokens)
        seqs = fitting(self.seqs, batch.num_seqs + (batch.num_tokens < tokens))
        width = max((group.block_tables.shape[1] for group in batch.groups.values()), default=1)
        num_logits = len(batch.logits_indices)
        few = min(max(seqs, _FIRST_LOGITS), self.logits)
        logits = few if num_logits <= few else self.logits
        num_rows = 0 if batch.sampling is None else batch.sampling.num_rows
        return StepShape(
            tokens,
            seqs,
            fitting(self.blocks, width),
            logits,
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


def _sizes(first: int, growth: int, most: int) -> tuple[int, ...]:
    sizes = [min(first, most)]
    while sizes[-1] < most:
        sizes.append(min(sizes[-1] * growth, most))
    return tuple(sizes)
