"""From the engine core's tokens to what a user reads: text, stop strings, log-probabilities, finished requests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quire.engine.input_processor import PreparedRequest
from quire.engine.messages import SequenceOutput
from quire.engine.messages import TokenLogprobs as RawLogprobs
from quire.errors import BackendError, QuireError
from quire.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput, TokenLogprobs

if TYPE_CHECKING:
    from quire.tokenizer import IncrementalDetokenizer, Tokenizer


@dataclass(slots=True)
class ProcessedOutputs:
    """One step's news, by the requests' ids in the engine.

    Attributes:
        requests: updated ones (the same object each time, cumulative).
        stopped: (request id, index) of sequences that the core must abort: their stop string was found, of which it
            knows nothing, or another sequence of their request failed.
        failed: requests that ended with an error, and the error; they are among `requests` too.
    """

    requests: dict[str, RequestOutput] = field(default_factory=dict)
    stopped: list[tuple[str, int]] = field(default_factory=list)
    failed: list[tuple[str, QuireError]] = field(default_factory=list)


@dataclass(slots=True)
class _RequestState:
    prepared: PreparedRequest
    output: RequestOutput
    detokenizers: list[IncrementalDetokenizer] | None
    first_token_s: float | None = None


class OutputProcessor:
    """Keeps the state of every unfinished request. One owner: the front end's loop."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._states: dict[str, _RequestState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def add(self, prepared: PreparedRequest) -> None:
        """Registers a request before it is sent to the core."""
        message = prepared.message
        detokenizers = None
        if prepared.detokenize:
            from quire.tokenizer import IncrementalDetokenizer

            assert self._tokenizer is not None
            detokenizers = [
                IncrementalDetokenizer(self._tokenizer, message.prompt_token_ids, message.params)
                for _ in range(message.params.n)
            ]
        with_logprobs = message.params.logprobs is not None
        completions = [
            CompletionOutput(
                i,
                logprobs=[] if with_logprobs else None,
                text_offsets=_offsets(detokenizers, i, with_logprobs),
                cumulative_logprob=0.0 if with_logprobs else None,
            )
            for i in range(message.params.n)
        ]
        output = RequestOutput(prepared.request_id, prepared.prompt, list(message.prompt_token_ids), completions)
        self._states[message.request_id] = _RequestState(prepared, output, detokenizers)

    def request_ids(self) -> list[str]:
        """Ids of the unfinished requests, in the engine."""
        return list(self._states)

    def discard(self, request_id: str) -> None:
        """Forgets a request whose reader has gone."""
        self._states.pop(request_id, None)

    def process(self, outputs: Iterable[SequenceOutput]) -> ProcessedOutputs:
        """Takes one step's outputs in. Outputs of forgotten requests and of stopped sequences are dropped."""
        result = ProcessedOutputs()
        touched: dict[str, _RequestState] = {}
        for item in outputs:
            state = self._states.get(item.request_id)
            if state is None or state.output.outputs[item.index].finished():
                continue
            if item.finish_reason == "error":
                error = BackendError("the device failed") if item.error is None else item.error.error()
                result.failed.append((item.request_id, error))
                state.output.error = error
                for completion in state.output.outputs:
                    if completion.finish_reason is None:
                        completion.finish_reason = "error"
                        if completion.index != item.index:
                            result.stopped.append((item.request_id, completion.index))
                touched[item.request_id] = state
                continue
            if self._take(state, item):
                result.stopped.append((item.request_id, item.index))
            touched[item.request_id] = state
        for request_id, state in touched.items():
            if all(completion.finished() for completion in state.output.outputs):
                self._finish(state)
                del self._states[request_id]
            result.requests[request_id] = state.output
        return result

    def _take(self, state: _RequestState, item: SequenceOutput) -> bool:
        """Applies one sequence's news; True when a stop string ended it before the core knew."""
        output, completion = state.output, state.output.outputs[item.index]
        output.num_cached_tokens = max(output.num_cached_tokens, item.num_cached_tokens)
        if item.prompt_logprobs is not None:
            output.prompt_logprobs = [
                None if entry is None else self._logprobs(entry) for entry in item.prompt_logprobs
            ]
        if item.new_token_ids and state.first_token_s is None:
            state.first_token_s = time.monotonic()
        stop_string, num_kept = self._append_text(state, completion, item)
        completion.token_ids.extend(item.new_token_ids[:num_kept])
        if completion.logprobs is not None and item.logprobs is not None:
            for entry in item.logprobs[:num_kept]:
                completion.logprobs.append(self._logprobs(entry))
                completion.cumulative_logprob = (completion.cumulative_logprob or 0.0) + entry.logprobs[0]
        if stop_string is not None:
            completion.finish_reason, completion.stop_reason = "stop", stop_string
            return item.finish_reason is None
        completion.finish_reason, completion.stop_reason = item.finish_reason, item.stop_reason
        return False

    def _append_text(
        self, state: _RequestState, completion: CompletionOutput, item: SequenceOutput
    ) -> tuple[str | None, int]:
        """Adds the text; (the stop string that was found, how many of the new tokens count)."""
        if state.detokenizers is None:
            if completion.text_offsets is not None:
                completion.text_offsets.extend(0 for _ in item.new_token_ids)
            return None, len(item.new_token_ids)
        detokenizer = state.detokenizers[item.index]
        shown = item.new_token_ids
        if item.finish_reason == "stop" and not state.prepared.message.params.include_stop_str_in_output:
            shown = shown[:-1]  # the token that ended it has no place in the text
        for position, token_id in enumerate(shown):
            completion.text += detokenizer.append(token_id)
            if detokenizer.stop_string is not None:
                return detokenizer.stop_string, position + 1
        for token_id in item.new_token_ids[len(shown) :]:
            completion.text += detokenizer.end(token_id)
        if item.finish_reason is not None:
            completion.text += detokenizer.finish()
        return detokenizer.stop_string, len(item.new_token_ids)

    def _logprobs(self, raw: RawLogprobs) -> TokenLogprobs:
        """Token id -> Logprob. The first entry keeps its own rank; the others are ranked in order."""
        entries: dict[int, Logprob] = {}
        for column, (token_id, value) in enumerate(zip(raw.token_ids, raw.logprobs, strict=True)):
            if token_id not in entries:
                rank = raw.rank if column == 0 else column
                entries[token_id] = Logprob(value, rank, self._token_text(token_id))
        return entries

    def _token_text(self, token_id: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.token_text(token_id)

    def _finish(self, state: _RequestState) -> None:
        state.output.finished = True
        state.output.metrics = RequestMetrics(
            state.prepared.message.arrival_time_s, state.first_token_s, time.monotonic()
        )


def _offsets(detokenizers: list[IncrementalDetokenizer] | None, index: int, wanted: bool) -> list[int] | None:
    """The list that grows with the tokens: the detokenizer's own where there is one."""
    if not wanted:
        return None
    return [] if detokenizers is None else detokenizers[index].offsets
