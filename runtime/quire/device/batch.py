"""One step as it crosses the contract: flat numpy arrays, exact, without padding; and what comes back.

Shapes here: T tokens of the step, S sequences, L logits rows, R sampled rows, B blocks per sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from quire.sampling.batch import F32, I32, LogprobRows, SamplingBatch


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """One KV group's side of a step.

    Attributes:
        block_tables: int32 [S, B], -1 = not resident (never read, never written). State groups: [S, 1] read slot.
        write_slots: int32 [S, 1 + drafts] for state groups, else None.
        lens: int32 [S], encoder length for cross groups, else None.
    """

    block_tables: I32
    write_slots: I32 | None = None
    lens: I32 | None = None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Everything one step needs.

    Attributes:
        step: counts from 0.
        token_ids: int32 [T]; -1 = the token that row `prev_row[s]` of the step before sampled.
        query_start_loc: int32 [S+1]; sequence s owns tokens [query_start_loc[s], query_start_loc[s+1]).
        num_computed: int32 [S], tokens in the cache before this step.
        prev_row: int32 [S], this sequence's row in the previous step's sampled rows, -1 = none.
        groups: KV group name -> GroupBatch.
        copies: KV group name -> int32 [n, 2] (source, destination) block ids, copied before anything else. Within
            one step no block is both a source and a destination, and none is a destination twice, so that the
            order of the copies does not matter.
        logits_indices: int32 [L], token rows whose logits are needed.
        sampling: what to sample, or None when no row needs a token.
        positions: int32 [T] for position encodings only; None = the KV index.
    """

    step: int
    token_ids: I32
    query_start_loc: I32
    num_computed: I32
    prev_row: I32
    groups: Mapping[str, GroupBatch]
    logits_indices: I32
    sampling: SamplingBatch | None = None
    copies: Mapping[str, I32] = field(default_factory=dict)
    positions: I32 | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_seqs(self) -> int:
        return len(self.num_computed)

    @property
    def seq_lens(self) -> I32:
        """int32 [S], tokens in the cache after this step."""
        return (self.num_computed + np.diff(self.query_start_loc)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced.

    Attributes:
        tokens: int32 [R, 1 + drafts], row r for `sampling.rows[r]`. NO_TOKEN (-1) where nothing is left to draw,
            NOT_FINITE (-2) where the row's logits hold NaN or +inf: that request ends, the other rows count. A step
            after it may be fed such a row's token already: take 0 instead, nobody looks at what comes of it.
        num_emitted: int32 [R], how many of them count.
        logprobs, prompt_logprobs: where asked for; the first of a row whose logits hold NaN or +inf is NaN.
        logits: float32 [L, vocab] when the executor was created with `return_logits` (tests, conformance).
    """

    tokens: I32
    num_emitted: I32
    logprobs: LogprobRows | None = None
    prompt_logprobs: LogprobRows | None = None
    logits: F32 | None = None


@dataclass(frozen=True, slots=True)
class DerivedIndices:
    """What follows from a StepBatch for one KV group; computed on the device's side of the contract.

    Attributes:
        seq_ids: int32 [T], sequence of each token.
        kv_index: int32 [T], index of each token in its sequence; also its position unless the batch gives others.
        slots: int32 [T], block_id * block_size + offset; -1 where the block is not resident.
    """

    seq_ids: I32
    kv_index: I32
    slots: I32


def token_indices(batch: StepBatch) -> tuple[I32, I32]:
    """Sequence of each token, and its index in that sequence: int32 [T] both."""
    lengths = np.diff(batch.query_start_loc)
    seq_ids = np.repeat(np.arange(batch.num_seqs, dtype=np.int32), lengths)
    offset = np.arange(batch.num_tokens, dtype=np.int32) - batch.query_start_loc[seq_ids]
    return seq_ids, (batch.num_computed[seq_ids] + offset).astype(np.int32)


def derive(batch: StepBatch, group: str, block_size: int) -> DerivedIndices:
    """Per-token indices of a step for one KV group."""
    seq_ids, kv_index = token_indices(batch)
    tables = batch.groups[group].block_tables
    columns = np.minimum(kv_index // block_size, tables.shape[1] - 1)  # only padding tokens lie beyond: in the trash
    block_ids = tables[seq_ids, columns]
    slots = np.where(block_ids < 0, -1, block_ids * block_size + kv_index % block_size).astype(np.int32)
    return DerivedIndices(seq_ids, kv_index, slots)


def pad(
    batch: StepBatch,
    *,
    num_tokens: int,
    num_seqs: int,
    num_logits: int,
    max_blocks: int,
    trash: int | Mapping[str, int],
) -> StepBatch:
    """The batch in a fixed shape for bucketed executors.

    Padding tokens belong to padding sequences whose only block is `trash` (an id the executor reserved beyond
    the core's; by KV group where pools differ in size); padding logits rows read token row 0. Sampling arrays
    stay exact: the executor drops the padding rows of the logits. Raises ValueError when the batch does not fit
    the shape.
    """
    extra_tokens, extra_seqs = num_tokens - batch.num_tokens, num_seqs - batch.num_seqs
    extra_logits = num_logits - len(batch.logits_indices)
    if min(extra_tokens, extra_seqs, extra_logits) < 0 or (extra_tokens and not extra_seqs):
        raise ValueError(
            f"a step of {batch.num_tokens} tokens, {batch.num_seqs} sequences and"
            f" {len(batch.logits_indices)} logits rows does not fit ({num_tokens}, {num_seqs},"
            f" {num_logits}); padding tokens need one spare sequence"
        )
    ends = np.full(extra_seqs, num_tokens, np.int32)

    def extend(array: I32, count: int, value: int) -> I32:
        return np.concatenate([array, np.full(count, value, np.int32)])

    def pad_tables(name: str, tables: I32) -> I32:
        spare = trash if isinstance(trash, int) else trash[name]
        out = np.full((num_seqs, max_blocks), spare, np.int32)
        out[: tables.shape[0], : tables.shape[1]] = np.where(tables < 0, spare, tables)
        return out

    return StepBatch(
        step=batch.step,
        token_ids=extend(batch.token_ids, extra_tokens, 0),
        query_start_loc=np.concatenate([batch.query_start_loc, ends]),
        num_computed=extend(batch.num_computed, extra_seqs, 0),
        prev_row=extend(batch.prev_row, extra_seqs, -1),
        groups={name: GroupBatch(pad_tables(name, group.block_tables)) for name, group in batch.groups.items()},
        logits_indices=extend(batch.logits_indices, extra_logits, 0),
        sampling=batch.sampling,
        copies=batch.copies,
        positions=None if batch.positions is None else extend(batch.positions, extra_tokens, 0),
    )
