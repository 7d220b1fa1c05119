"""From a step's LogprobRows to the log-probabilities of single tokens; prompts are put together over their chunks."""

from __future__ import annotations

import math

from quire.engine.messages import TokenLogprobs
from quire.sampling.batch import LogprobRows


def token_logprobs(rows: LogprobRows, row: int, num_top: int) -> TokenLogprobs:
    """Row `row`: the drawn (or actual) token and the `num_top` most likely ones."""
    stop = 1 + num_top
    return TokenLogprobs(rows.token_ids[row, :stop].tolist(), rows.logprobs[row, :stop].tolist(), int(rows.ranks[row]))


class PromptLogprobs:
    """The prompt logprobs of one request. A chunk that is computed again after a preemption is written again.

    Attributes:
        num_top: most likely tokens asked for beside the actual one.
        places: one entry per prompt token; None for the first, which nothing predicts.
        is_broken: some of the logits hold NaN or an infinity.
    """

    def __init__(self, num_prompt_tokens: int, num_top: int) -> None:
        self.num_top = num_top
        self.places: list[TokenLogprobs | None] = [None] * num_prompt_tokens
        self.is_broken = False

    def put(self, position: int, logprobs: TokenLogprobs) -> None:
        """Those of the prompt token at `position`."""
        self.places[position] = logprobs
        self.is_broken = self.is_broken or math.isnan(logprobs.logprobs[0])
