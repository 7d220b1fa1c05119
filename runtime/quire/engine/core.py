"""The engine core: requests in, tokens out, one step at a time. It knows executors, not devices.

    step     = schedule -> build -> submit -> read -> account          (plain)
    step N+1 = schedule -> build -> submit, then read -> account of N  (overlapped)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from quire.device.batch import StepResult
from quire.device.contract import Executor, KVPlan, Pending
from quire.engine.admission import RequestLimits, make_request
from quire.engine.logprob_rows import PromptLogprobs, token_logprobs
from quire.engine.messages import EngineRequest, SequenceOutput, TokenLogprobs
from quire.engine.sampling_rows import num_logprobs
from quire.engine.step_builder import PromptRows, StepBuilder
from quire.errors import BackendError, ConfigError, InternalError, RequestError
from quire.graph.ir import ModelGraph
from quire.kv.block_manager import BlockManager
from quire.observability.stats import EngineStats, StepCounters
from quire.outputs import FinishReason
from quire.sampling.sampler import NO_TOKEN, nothing_to_draw_error
from quire.scheduler.plan import StepPlan
from quire.scheduler.policy import Policy
from quire.scheduler.scheduler import Scheduler, SchedulerLimits
from quire.scheduler.sequence import Request, Sequence, Status


@dataclass(frozen=True, slots=True)
class SubmittedStep:
    """A step whose tokens were not read yet; `outcome` is the error when the executor did not take it."""

    plan: StepPlan
    prompt_rows: PromptRows | None
    outcome: Pending | BackendError


class EngineCore:
    """Runs requests on an executor whose weights are loaded and whose KV cache is allocated.

    Called from one thread. Tokens arrive as `step` is called; with overlap the tokens of a step come back from
    the call after the one that submitted it.

    Args:
        executor: owned by the core from here on. model: for its KV groups and vocabulary. kv_plan: what the
            executor allocated.
        block_size: tokens per KV block. max_model_len: most tokens of a sequence, prompt and output.
        max_num_batched_tokens, max_num_seqs: limits of one step.
        long_prefill_token_threshold: most prompt tokens of one sequence in one step; 0 = no limit.
        async_depth: 1 = plain; 2 = a step is submitted before the one before it is read; None = as the executor can.
        max_logprobs: most logprobs a request may ask for; None = the vocabulary. seed: for requests without one.
    Raises: ConfigError when the limits contradict each other.
    """

    def __init__(self, executor: Executor, model: ModelGraph, kv_plan: KVPlan, *, block_size: int, max_model_len: int,
                 max_num_batched_tokens: int, max_num_seqs: int, long_prefill_token_threshold: int = 0,
                 scheduling_policy: Policy = "fcfs", enable_prefix_caching: bool = True,
                 async_depth: int | None = None, max_logprobs: int | None = None, seed: int = 0) -> None:  # fmt: skip
        if max_num_batched_tokens < max_num_seqs:
            raise ConfigError(f"max_num_batched_tokens={max_num_batched_tokens} is below max_num_seqs={max_num_seqs}",
                              because="every running sequence needs one token a step",
                              try_=f"--max-num-batched-tokens {max_num_seqs}, or fewer sequences")  # fmt: skip
        vocab_size = model.axes["vocab"].full_size
        depth = executor.capabilities.async_depth if async_depth is None else async_depth
        self.async_depth = min(depth, executor.capabilities.async_depth, 2)
        self._executor = executor
        self._counters = StepCounters()
        self._limits = RequestLimits(vocab_size=vocab_size, max_model_len=max_model_len, max_logprobs=max_logprobs,
                                     seed=seed)  # fmt: skip
        blocks = BlockManager(
            model.kv_groups, kv_plan, block_size=block_size, max_model_len=max_model_len, max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens, enable_prefix_caching=enable_prefix_caching,
        )  # fmt: skip
        step_limits = SchedulerLimits(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            long_prefill_token_threshold=long_prefill_token_threshold,
        )
        self.scheduler = Scheduler(blocks, step_limits, scheduling_policy, self._counters)
        self._builder = StepBuilder(blocks, max_num_seqs, vocab_size)
        self._requests: dict[str, Request] = {}
        self._prompt_logprobs: dict[str, PromptLogprobs] = {}
        self._unread: SubmittedStep | None = None
        self._num_requests = 0

    # ---- requests -------------------------------------------------------------------------------------

    def add_request(self, message: EngineRequest) -> None:
        """Queues a request. Raises RequestError when it is wrong or could never run; nothing is queued then."""
        if message.request_id in self._requests:
            raise RequestError(f"request_id={message.request_id!r} is taken", because="that request is not finished",
                               try_="another id", param="request_id")  # fmt: skip
        request = make_request(message, self._num_requests, self._limits)
        self.scheduler.add(request)
        self._num_requests += 1
        self._requests[request.request_id] = request
        if request.needs_prompt_logits:
            num_top = num_logprobs(request.params.prompt_logprobs, self._limits.vocab_size)
            self._prompt_logprobs[request.request_id] = PromptLogprobs(request.num_prompt_tokens, num_top)

    def abort(self, request_id: str, index: int | None = None) -> list[SequenceOutput]:
        """Ends a request, or one of its sequences, at once; tokens in flight are dropped.

        Returns one output with finish_reason "abort" per sequence that was unfinished; none for an unknown id,
        since a request may finish while its abort is on the way.
        """
        request = self._requests.get(request_id)
        if request is None:
            return []
        ended = [seq for seq in request.sequences
                 if seq.status is not Status.FINISHED and index in (None, seq.index)]  # fmt: skip
        for seq in reversed(ended):  # unforked ones first, so that none of them starts over
            self._finish(seq)
        return [_final_output(seq, "abort") for seq in ended]

    def has_unfinished(self) -> bool:
        """Whether `step` has anything left to do."""
        return self.scheduler.has_unfinished or self._unread is not None

    # ---- steps ----------------------------------------------------------------------------------------

    def step(self) -> list[SequenceOutput]:
        """One iteration; what it brought to each sequence. [] when nothing is to be done or nothing came yet."""
        return self._step_overlapped() if self.async_depth > 1 else self._step_plain()

    def _step_plain(self) -> list[SequenceOutput]:
        plan = self.scheduler.schedule()
        if plan.sequences:
            return self._read(self._submit(plan))
        self._require_progress()
        return []

    def _step_overlapped(self) -> list[SequenceOutput]:
        unread, self._unread = self._unread, None
        outputs: list[SequenceOutput] = []
        if unread is not None and any(seq.request.needs_host_tokens for seq in unread.plan.sampled):
            outputs, unread = self._read(unread), None
        plan = self.scheduler.schedule()
        step = self._submit(plan) if plan.sequences else None
        if unread is not None:
            outputs += self._read(unread)
        elif step is None:
            self._require_progress()
        if step is not None and isinstance(step.outcome, BackendError):
            outputs += self._fail(step.plan, step.outcome)
            step = None  # nothing may refer to a step that the executor has not seen
        self._unread = step
        return outputs

    def _submit(self, plan: StepPlan) -> SubmittedStep:
        batch, prompt_rows = self._builder.build(plan)
        self._counters.steps += 1
        try:
            return SubmittedStep(plan, prompt_rows, self._executor.submit(batch))
        except BackendError as error:
            return SubmittedStep(plan, prompt_rows, error)

    def _read(self, step: SubmittedStep) -> list[SequenceOutput]:
        """Waits for a step and accounts for it."""
        if isinstance(step.outcome, BackendError):
            return self._fail(step.plan, step.outcome)
        try:
            result = _checked(step.outcome.result(), step.plan)
        except BackendError as error:
            return self._fail(step.plan, error)
        self.scheduler.offer_to_cache(step.plan)
        if step.prompt_rows is not None:
            self._collect_prompt_logprobs(step.prompt_rows, result)
        return self._accept(step.plan, result)

    def _accept(self, plan: StepPlan, result: StepResult) -> list[SequenceOutput]:
        """Gives each sequence its token and ends those that are done; tokens of ended sequences are dropped."""
        outputs: list[SequenceOutput] = []
        num_tokens = 0
        for row, (seq, token_id) in enumerate(zip(plan.sampled, result.tokens[:, 0].tolist(), strict=True)):
            if seq.status is Status.FINISHED:
                continue
            request = seq.request
            if token_id == NO_TOKEN:
                outputs.append(_final_output(seq, "error", str(nothing_to_draw_error())))
                self._finish(seq)
                continue
            reason = seq.accept(token_id)
            num_tokens += 1
            outputs.append(
                SequenceOutput(
                    request.request_id, seq.index, [token_id], reason,
                    _stop_reason(request, token_id) if reason == "stop" else None,
                    None if request.params.logprobs is None else self._logprobs_of(request, result, row),
                    self._take_prompt_logprobs(request) if request.needs_prompt_logits else None,
                    request.num_cached_tokens,
                )
            )  # fmt: skip
            if reason is not None:
                self._finish(seq)
        self._counters.generated_tokens += num_tokens
        return outputs

    def _fail(self, plan: StepPlan, error: BackendError) -> list[SequenceOutput]:
        """Ends every sequence of a step that the device could not do; the others go on."""
        self._counters.failed_steps += 1
        affected = {id(seq): seq for seq in (*plan.sequences, *plan.sampled) if seq.status is not Status.FINISHED}
        for seq in list(affected.values()):
            affected.update((id(other), other) for other in seq.request.unforked)
        for seq in reversed(affected.values()):
            self._finish(seq)
        return [_final_output(seq, "error", str(error)) for seq in affected.values()]

    def _finish(self, seq: Sequence) -> None:
        self.scheduler.finish(seq)
        request_id = seq.request.request_id
        if seq.request.is_finished:
            del self._requests[request_id]
            self._prompt_logprobs.pop(request_id, None)
            self._counters.requests_finished += 1

    def _require_progress(self) -> None:
        if self.scheduler.has_unfinished:
            raise InternalError("no sequence can be scheduled although some are unfinished",
                                because=f"{len(self.scheduler.running)} run, {len(self.scheduler.waiting)} wait",
                                try_="please report it")  # fmt: skip

    # ---- logprobs -------------------------------------------------------------------------------------

    def _logprobs_of(self, request: Request, result: StepResult, row: int) -> list[TokenLogprobs]:
        if result.logprobs is None:
            raise InternalError("the executor returned no logprobs", because="the step asked for them")
        return [token_logprobs(result.logprobs, row, num_logprobs(request.params.logprobs, self._limits.vocab_size))]

    def _collect_prompt_logprobs(self, prompt_rows: PromptRows, result: StepResult) -> None:
        if result.prompt_logprobs is None:
            raise InternalError("the executor returned no prompt logprobs", because="the step asked for them")
        for row, (seq, position) in enumerate(prompt_rows.places):
            collected = self._prompt_logprobs.get(seq.request.request_id)
            if collected is not None:
                collected.places[position] = token_logprobs(result.prompt_logprobs, row, collected.num_top)

    def _take_prompt_logprobs(self, request: Request) -> list[TokenLogprobs | None]:
        """The whole prompt's, once its last chunk was read, which is when a first token comes."""
        request.needs_prompt_logits = False
        return self._prompt_logprobs.pop(request.request_id).places

    # ---- figures and end ------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """A snapshot of gauges and counters."""
        blocks, running = self.scheduler.blocks, self.scheduler.running
        live = [(seq.blocks, seq.num_computed_tokens) for seq in running if seq.blocks is not None]
        return EngineStats(
            num_running=len(running),
            num_waiting=len(self.scheduler.waiting),
            num_blocks=blocks.num_blocks,
            num_used_blocks=blocks.num_used_blocks,
            num_cached_blocks=blocks.num_cached_blocks,
            kv_usage=blocks.num_used_blocks / blocks.num_blocks,
            kv_waste=blocks.waste(live),
            **asdict(self._counters),
        )

    def close(self) -> None:
        """Closes the executor. Unfinished requests get no more outputs."""
        self._unread = None
        self._executor.close()


def _checked(result: StepResult, plan: StepPlan) -> StepResult:
    """The result, if it has one row of tokens for each that was to be drawn."""
    if len(result.tokens) != len(plan.sampled):
        raise BackendError(f"the executor returned {len(result.tokens)} tokens for {len(plan.sampled)} sampled rows",
                           because="it does not keep the contract", try_="quire conform --device NAME")  # fmt: skip
    return result


def _stop_reason(request: Request, token_id: int) -> int | None:
    return None if token_id in request.eos_token_ids else token_id


def _final_output(seq: Sequence, reason: FinishReason, error: str | None = None) -> SequenceOutput:
    num_cached = max(0, seq.request.num_cached_tokens)
    return SequenceOutput(seq.request.request_id, seq.index, [], reason, num_cached_tokens=num_cached, error=error)
