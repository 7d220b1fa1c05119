"""What the scheduler decided for one step, and what is needed to account for it when its tokens are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire.sampling.batch import I32
from quire.scheduler.sequence import Sequence, Status


@dataclass(slots=True, eq=False)
class StepPlan:
    """One step. Lists of one length: `sequences`, `starts`, `num_new`, `prev_rows`; and `sampled`, `sampled_from`.

    Attributes:
        sequences: who runs. starts: tokens in the cache before the step. num_new: tokens computed by it.
        prev_rows: row of the step before that sampled the sequence's last token, or -1 = the token is known.
        sampled: who draws a token; sampled_from: index into `sequences` of the row whose logits it draws from.
            A request's sequences all draw their first token from the row that finished the prompt.
        admitted: sequences that got a row of the tables in this step.
        prompt_chunks: indices into `sequences` of chunks whose prompt logits are wanted.
        copies: block copies to do first, per KV group.
        num_preempted: sequences that lost their blocks while the step was planned.
    """

    sequences: list[Sequence] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    num_new: list[int] = field(default_factory=list)
    prev_rows: list[int] = field(default_factory=list)
    sampled: list[Sequence] = field(default_factory=list)
    sampled_from: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    prompt_chunks: list[int] = field(default_factory=list)
    copies: dict[str, I32] = field(default_factory=dict)
    num_preempted: int = 0

    def add(self, sequence: Sequence, num_new: int) -> None:
        """Runs `num_new` more tokens of a sequence; it draws one when they are its last."""
        start = sequence.num_computed_tokens
        if start < sequence.num_prompt_tokens and sequence.request.needs_prompt_logits:
            self.prompt_chunks.append(len(self.sequences))
        self.sequences.append(sequence)
        self.starts.append(start)
        self.num_new.append(num_new)
        self.prev_rows.append(sequence.prev_row if sequence.num_inflight_tokens else -1)
        sequence.num_computed_tokens = start = start + num_new
        if start == sequence.num_tokens:
            self.draw(sequence, len(self.sequences) - 1)

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(self.num_new)

    def unfinished(self) -> list[Sequence]:
        """Who ran or drew in the step and has not ended since, each once."""
        found = {id(seq): seq for seq in (*self.sequences, *self.sampled) if seq.status is not Status.FINISHED}
        return list(found.values())

    def draw(self, sequence: Sequence, row: int) -> None:
        """Draws the sequence's next token from the last logits of `sequences[row]`."""
        sequence.prev_row = len(self.sampled)
        sequence.num_tokens += 1
        sequence.num_inflight_tokens += 1
        self.sampled.append(sequence)
        self.sampled_from.append(row)
