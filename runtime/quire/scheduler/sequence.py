"""Requests and their sequences: the scheduler's mutable state, which never leaves the core."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from quire.kv.block_hash import extend_block_hashes
from quire.kv.sequence_blocks import SequenceBlocks
from quire.outputs import FinishReason
from quire.sampling.batch import I32
from quire.sampling_params import SamplingParams


class Status(Enum):
    """Where a sequence is."""

    UNFORKED = "unforked"  # shares the leader's prompt, which is not computed yet; in no queue
    WAITING = "waiting"  # has no blocks; new, or preempted and to be computed again
    RUNNING = "running"  # has blocks and a row
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """What a user asked for, checked. Only `sequences`, `unforked` and the two marked fields change.

    Attributes:
        prompt: int32 [num_prompt_tokens]. max_output_tokens: as far as max_tokens and the model's length allow.
        eos_token_ids: empty under ignore_eos. stop_token_ids: eos_token_ids and params.stop_token_ids.
        bad_words: each as token ids. seed: of the draws; given, or derived from the engine's.
        number: counts requests as they come. hash_root: parent of the first block's hash.
        unforked: sequences that share the prompt of the one that computes it, until it is done.
        needs_host_tokens: a draw depends on what the draws before it were, so the host must know them first.
        needs_prompt_logits: every prompt token must still go through the model (changes).
        num_cached_tokens: prompt tokens found in the prefix cache at first admission; -1 before (changes).
    """

    request_id: str
    prompt: I32
    params: SamplingParams
    max_output_tokens: int
    seed: int
    number: int
    hash_root: bytes
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()
    priority: int = 0
    arrival_time_s: float = 0.0
    needs_host_tokens: bool = False
    needs_prompt_logits: bool = False
    num_cached_tokens: int = -1
    sequences: list[Sequence] = field(default_factory=list)
    unforked: list[Sequence] = field(default_factory=list)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def is_finished(self) -> bool:
        return all(seq.status is Status.FINISHED for seq in self.sequences)

    def restart(self) -> None:
        """Every unfinished sequence waits, as new but for the tokens that it has; without any they share a prompt."""
        unfinished = [seq for seq in self.sequences if seq.status is not Status.FINISHED]
        self.unforked = [] if any(seq.output_token_ids for seq in unfinished) else unfinished[1:]
        for seq in unfinished:
            seq.restart()
        for seq in self.unforked:
            seq.status = Status.UNFORKED


@dataclass(slots=True, eq=False)
class Sequence:
    """One line of generated tokens.

    num_tokens == num_prompt_tokens + len(output_token_ids) + num_inflight_tokens at all times, and a step for
    the sequence computes tokens num_computed_tokens .. num_tokens-1, or the first part of them.

    Attributes:
        order: sort key of the policy; smaller runs first and is preempted last.
        output_token_ids: tokens known to the host. last_token_id: the last known token of prompt and output.
        num_computed_tokens: tokens whose K and V are in the cache once every submitted step is done.
        num_inflight_tokens: sampled by submitted steps and not read yet.
        prev_row: row of the newest in-flight token among the sampled rows of its step.
        max_num_tokens: prompt and output together.
        block_hashes: of the leading full blocks, as far as they were needed.
    """

    request: Request
    index: int
    order: tuple[float, ...] = ()
    status: Status = Status.WAITING
    output_token_ids: list[int] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    max_num_tokens: int = 0
    num_computed_tokens: int = 0
    num_inflight_tokens: int = 0
    last_token_id: int = 0
    prev_row: int = -1
    blocks: SequenceBlocks | None = None
    block_hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = self.request.num_prompt_tokens
        self.max_num_tokens = self.num_prompt_tokens + self.request.max_output_tokens
        self.restart()

    def restart(self) -> None:
        """Waits, without blocks and with nothing in flight, for its known tokens to be computed."""
        self.status = Status.WAITING
        self.num_tokens = self.num_prompt_tokens + len(self.output_token_ids)
        self.num_computed_tokens = self.num_inflight_tokens = 0
        self.last_token_id = int(self.output_token_ids[-1] if self.output_token_ids else self.request.prompt[-1])
        self.prev_row, self.blocks, self.block_hashes = -1, None, []

    def tokens_between(self, start: int, stop: int) -> I32:
        """int32 [stop - start] known tokens of prompt and output."""
        split = self.num_prompt_tokens
        if stop <= split:
            return self.request.prompt[start:stop]
        output = np.array(self.output_token_ids[max(0, start - split) : stop - split], np.int32)
        return output if start >= split else np.concatenate([self.request.prompt[start:], output])

    def hashes_of(self, num_blocks: int, block_size: int) -> list[bytes]:
        """Hashes of the first `num_blocks` blocks, all of whose tokens are known."""
        if len(self.block_hashes) < num_blocks:
            extend_block_hashes(self.block_hashes, self.request.hash_root, num_blocks, block_size, self.tokens_between)
        return self.block_hashes[:num_blocks]

    def forget_inflight(self) -> None:
        """Back to the known tokens: those that submitted steps were to bring will not come."""
        self.num_tokens -= self.num_inflight_tokens
        self.num_inflight_tokens = 0
        self.prev_row = -1

    def accept(self, token_id: int) -> FinishReason | None:
        """Takes the oldest in-flight token; the reason when the sequence ends with it."""
        self.output_token_ids.append(token_id)
        self.last_token_id = token_id
        self.num_inflight_tokens -= 1
        num_output = len(self.output_token_ids)
        if token_id in self.request.stop_token_ids and num_output >= self.request.params.min_tokens:
            return "stop"
        return "length" if num_output >= self.request.max_output_tokens else None
