"""From a StepPlan to the StepBatch that crosses the contract.

The block tables and the sampling parameters live in persistent arrays, so a decode step is a few gathers.
Shapes here: T tokens of the step, S sequences, L logits rows, R sampled rows, P prompt rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from operator import add

import numpy as np

from quire.device.batch import StepBatch
from quire.engine.sampling_rows import SamplingRows, num_logprobs
from quire.kv.block_manager import BlockManager
from quire.sampling.batch import I32, SamplingBatch
from quire.scheduler.plan import StepPlan
from quire.scheduler.sequence import Sequence

_NO_DRAWS = SamplingBatch(
    rows=np.empty(0, np.int32), temperature=np.empty(0, np.float32), seed=np.empty(0, np.uint64),
    sequence_index=np.empty(0, np.uint32), position=np.empty(0, np.int32),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Rows of a step whose logits tell how likely prompt tokens were.

    Attributes:
        token_rows: int32 [P], rows of the step's tokens. targets: int32 [P], the prompt token that follows each.
        num_top: int32 [P]. places: per row, (sequence, position of the target in its prompt).
    """

    token_rows: I32
    targets: I32
    num_top: I32
    places: list[tuple[Sequence, int]]


class StepBuilder:
    """Builds batches; counts the steps. Nobody writes to arrays that it returned: steps share some."""

    def __init__(self, blocks: BlockManager, max_num_seqs: int, vocab_size: int) -> None:
        self._blocks = blocks
        self._vocab_size = vocab_size
        self._sampling = SamplingRows(max_num_seqs, vocab_size)
        self._num_steps = 0

    def build(self, plan: StepPlan) -> tuple[StepBatch, PromptRows | None]:
        """The batch of a plan that has sequences, and where its prompt rows belong."""
        for seq in plan.admitted:
            assert seq.blocks is not None
            self._sampling.fill(seq.blocks.row, seq)
        decoding = _each_token_draws(plan)
        table_rows = _table_rows(plan.sequences)
        num_computed = np.array(plan.starts, np.int32)
        query_start_loc = _counted(len(plan.sequences) + 1) if decoding else _start_loc(plan.num_new)
        lengths = list(map(add, plan.starts, plan.num_new))
        seq_lens = np.array(lengths, np.int32)
        width = -(-max(lengths) // self._blocks.block_size)
        prompt_rows = self._prompt_rows(plan, query_start_loc) if plan.prompt_chunks else None
        if decoding and prompt_rows is None:
            logits_indices = _counted(len(plan.sampled))
            sampling: SamplingBatch | None = self._sampling.build(plan.sampled, table_rows, logits_indices, seq_lens)
        else:
            logits_indices, sampling = self._draws(plan, query_start_loc, table_rows, seq_lens, prompt_rows)
        batch = StepBatch(
            step=self._num_steps,
            token_ids=_last_token_ids(plan) if decoding else _token_ids(plan),
            query_start_loc=query_start_loc,
            num_computed=num_computed,
            prev_row=np.array(plan.prev_rows, np.int32),
            groups={name: group.batch(table_rows, width) for name, group in self._blocks.groups.items()},
            logits_indices=logits_indices,
            sampling=sampling,
            copies=plan.copies,
        )
        self._num_steps += 1
        return batch, prompt_rows

    def _draws(
        self, plan: StepPlan, query_start_loc: I32, table_rows: I32, seq_lens: I32, prompt_rows: PromptRows | None
    ) -> tuple[I32, SamplingBatch | None]:
        """Which token rows need logits [L], and what is drawn from them."""
        num_drawn = len(plan.sampled)
        sampled_from = np.array(plan.sampled_from, np.int32)
        token_rows = query_start_loc[1:][sampled_from] - 1  # [R]
        one_each = bool((sampled_from[1:] > sampled_from[:-1]).all())  # no forks: one draw from each row
        if prompt_rows is None and one_each:
            logits_indices, logits_rows = token_rows, np.arange(num_drawn, dtype=np.int32)
        else:
            wanted = token_rows if prompt_rows is None else np.concatenate([token_rows, prompt_rows.token_rows])
            logits_indices, inverse = np.unique(wanted, return_inverse=True)
            logits_rows = inverse.astype(np.int32)
        sampling = None
        if num_drawn:
            drawing_rows = table_rows[sampled_from] if one_each else _table_rows(plan.sampled)
            sampling = self._sampling.build(plan.sampled, drawing_rows, logits_rows[:num_drawn], seq_lens[sampled_from])
        if prompt_rows is not None:
            sampling = replace(
                sampling or _NO_DRAWS,
                prompt_rows=logits_rows[num_drawn:],
                prompt_targets=prompt_rows.targets,
                prompt_num_logprobs=prompt_rows.num_top,
            )
        return logits_indices, sampling

    def _prompt_rows(self, plan: StepPlan, query_start_loc: I32) -> PromptRows | None:
        token_rows, targets, num_top = [], [], []
        places: list[tuple[Sequence, int]] = []
        for index in plan.prompt_chunks:
            seq, start = plan.sequences[index], plan.starts[index]
            stop = min(start + plan.num_new[index], seq.num_prompt_tokens - 1)  # the last predicts no prompt token
            top = num_logprobs(seq.request.params.prompt_logprobs, self._vocab_size)
            first = int(query_start_loc[index])
            token_rows.append(np.arange(first, first + stop - start, dtype=np.int32))
            targets.append(seq.request.prompt[start + 1 : stop + 1])
            num_top.append(np.full(stop - start, top, np.int32))
            places += [(seq, position) for position in range(start + 1, stop + 1)]
        if not places:
            return None
        return PromptRows(np.concatenate(token_rows), np.concatenate(targets), np.concatenate(num_top), places)


def _table_rows(sequences: list[Sequence]) -> I32:
    return np.array([seq.blocks.row for seq in sequences], np.int32)  # type: ignore[union-attr]


def _each_token_draws(plan: StepPlan) -> bool:
    """Whether the step is one of decoding: one token of each sequence, and each draws the next from it."""
    num_seqs = len(plan.sequences)
    return sum(plan.num_new) == num_seqs and plan.sampled_from == list(range(num_seqs))


@lru_cache(maxsize=256)
def _counted(count: int) -> I32:
    """int32 0, 1, ... count - 1; shared by the steps of decoding."""
    return np.arange(count, dtype=np.int32)


def _start_loc(num_new: list[int]) -> I32:
    return np.array([0, *accumulate(num_new)], np.int32)


def _last_token_ids(plan: StepPlan) -> I32:
    """As `_token_ids` for a step of decoding."""
    return np.array(
        [
            -1 if prev_row >= 0 else seq.last_token_id
            for seq, prev_row in zip(plan.sequences, plan.prev_rows, strict=True)
        ],
        np.int32,
    )


def _token_ids(plan: StepPlan) -> I32:
    """int32 [T]; -1 for tokens that are still in flight."""
    pieces: list[I32 | list[int]] = []
    for seq, start, num_new, prev_row in zip(plan.sequences, plan.starts, plan.num_new, plan.prev_rows, strict=True):
        if prev_row >= 0:
            pieces.append([-1])
        else:
            pieces.append(seq.tokens_between(start, start + num_new))
    return np.concatenate(pieces).astype(np.int32, copy=False)
