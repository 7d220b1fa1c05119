"""From a step's LogprobRows to the log-probabilities of single tokens; prompts are put together over their chunks."""

from __future__ import annotations

import math

from quire.engine.messages import TokenLogprobs
from quire.engine.sampling_rows import num_logprobs
from quire.engine.step_builder import PromptRows
from quire.sampling.batch import LogprobRows
from quire.scheduler.sequence import Request


def token_logprobs(rows: LogprobRows, row: int, num_top: int) -> TokenLogprobs:
    """Row `row`: the drawn (or actual) token and the `num_top` most likely ones."""
    stop = 1 + num_top
    return TokenLogprobs(rows.token_ids[row, :stop].tolist(), rows.logprobs[row, :stop].tolist(), int(rows.ranks[row]))


class LogprobCollector:
    """The prompt logprobs of every request that asked for them and has no token yet."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._requests: dict[str, _PromptLogprobs] = {}

    def __bool__(self) -> bool:
        return bool(self._requests)

    def begin(self, request: Request) -> None:
        """A request that asks for them."""
        num_top = num_logprobs(request.params.prompt_logprobs, self._vocab_size)
        self._requests[request.request_id] = _PromptLogprobs(request.num_prompt_tokens, num_top)

    def put(self, prompt_rows: PromptRows, logprobs: LogprobRows) -> None:
        """Those of a step's chunks of prompts."""
        for row, (seq, position) in enumerate(prompt_rows.places):
            collected = self._requests.get(seq.request.request_id)
            if collected is not None:
                collected.put(position, token_logprobs(logprobs, row, collected.num_top))

    def is_broken(self, request_id: str) -> bool:
        """Whether some of the request's logits hold NaN or an infinity."""
        return request_id in self._requests and self._requests[request_id].is_broken

    def take(self, request: Request) -> list[TokenLogprobs | None]:
        """The whole prompt's, once its last chunk was read, which is when a first token comes."""
        request.needs_prompt_logits = False
        return self._requests.pop(request.request_id).places

    def forget(self, request_id: str) -> None:
        """A request that ended; one that is not known is none."""
        self._requests.pop(request_id, None)

    def clear(self) -> None:
        """All requests ended."""
        self._requests.clear()


class _PromptLogprobs:
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
