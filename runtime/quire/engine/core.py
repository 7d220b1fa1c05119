"""The engine core: requests in, tokens out, one step at a time. It knows executors, not devices.

step     = schedule -> build -> submit -> read -> account          (plain)
step N+1 = schedule -> build -> submit, then read -> account of N  (overlapped)
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import asdict, replace

from quire.device.backend_errors import backend_error
from quire.device.batch import StepResult
from quire.device.contract import Executor, KVPlan
from quire.engine.admission import RequestLimits, make_request
from quire.engine.device_life import DeviceLife
from quire.engine.logprob_rows import LogprobCollector, token_logprobs
from quire.engine.messages import EngineRequest, Failure, SequenceOutput, TokenLogprobs
from quire.engine.sampling_rows import num_logprobs
from quire.engine.step_builder import StepBuilder
from quire.engine.submitted_step import SubmittedStep
from quire.errors import BackendError, ConfigError, InternalError, QuireError, RequestError
from quire.graph.ir import ModelGraph
from quire.kv.block_manager import BlockManager
from quire.observability.stats import EngineStats, StepCounters
from quire.outputs import FinishReason
from quire.sampling.batch import I32, NO_TOKEN, NOT_FINITE
from quire.sampling.checks import not_finite_error
from quire.sampling.sampler import nothing_to_draw_error
from quire.scheduler.plan import StepPlan
from quire.scheduler.policy import Policy
from quire.scheduler.scheduler import Scheduler, SchedulerLimits
from quire.scheduler.sequence import Request, Sequence, Status

logger = logging.getLogger("quire")

MOST_FAILED_ALONE = 8
"""So many sequences in a row fail, each alone in its step, and it is the device that is broken."""


class EngineCore:
    """Runs requests on an executor whose weights are loaded and whose KV cache is allocated.

    Called from one thread. Tokens arrive as `step` is called; with overlap the tokens of a step come back from
    the call after the one that submitted it.

    What goes wrong in a step ends those whose fault it is, and nobody else (`docs/decisions/022-failed-steps.md`).
    After an exception that is no error, such as KeyboardInterrupt, in the middle of a call, the next call finds that
    one was interrupted: all that ran is lost, and the engine goes on with what comes after.

    Args:
        executor: owned by the core from here on. model: for its KV groups and vocabulary. kv_plan: what the
            executor allocated.
        make_executor: another one like it, for when it breaks; None = there is none. step_timeout_s: longest wait for
            a step, 0 = any time.
        block_size: tokens per KV block. max_model_len: most tokens of a sequence, prompt and output.
        max_num_batched_tokens, max_num_seqs: limits of one step.
        long_prefill_token_threshold: most prompt tokens of one sequence in one step; 0 = no limit.
        async_depth: 1 = plain; 2 = a step is submitted before the one before it is read; None = as the executor can.
        max_logprobs: most logprobs a request may ask for; None = the vocabulary. seed: for requests without one.
    Attributes:
        broken: why no request can ever run again: the device is gone, and no other is to be had. None = one can.
    Raises: ConfigError when the limits contradict each other.
    """

    def __init__(
        self,
        executor: Executor,
        model: ModelGraph,
        kv_plan: KVPlan,
        *,
        block_size: int,
        max_model_len: int,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        long_prefill_token_threshold: int = 0,
        scheduling_policy: Policy = "fcfs",
        enable_prefix_caching: bool = True,
        async_depth: int | None = None,
        max_logprobs: int | None = None,
        seed: int = 0,
        make_executor: Callable[[], Executor] | None = None,
        step_timeout_s: float = 0.0,
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens={max_num_batched_tokens} is below max_num_seqs={max_num_seqs}",
                because="every running sequence needs one token a step",
                hint=f"--max-num-batched-tokens {max_num_seqs}, or fewer sequences",
            )
        vocab_size = model.axes["vocab"].full_size
        depth = executor.capabilities.async_depth if async_depth is None else async_depth
        self.async_depth = min(depth, executor.capabilities.async_depth, 2)
        self._kv_plan = kv_plan
        self._device = DeviceLife(executor, make_executor, step_timeout_s)
        self._counters = StepCounters()
        self._limits = RequestLimits(
            vocab_size=vocab_size, max_model_len=max_model_len, max_logprobs=max_logprobs, seed=seed
        )
        self._step_limits = SchedulerLimits(
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            long_prefill_token_threshold=long_prefill_token_threshold,
        )

        def empty_state() -> tuple[Scheduler, StepBuilder]:
            blocks = BlockManager(
                model.kv_groups,
                kv_plan,
                block_size=block_size,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                enable_prefix_caching=enable_prefix_caching,
            )
            return (
                Scheduler(blocks, self._step_limits, scheduling_policy, self._counters),
                StepBuilder(blocks, max_num_seqs, vocab_size),
            )

        self._empty_state = empty_state
        self.scheduler, self._builder = empty_state()
        self._requests: dict[str, Request] = {}
        self._prompt_logprobs = LogprobCollector(vocab_size)
        self._unread: list[SubmittedStep] = []  # oldest first
        self._num_requests = 0
        self._num_failed_alone = 0
        self._was_too_large = False  # the step before this one, and it is run again smaller
        self.broken: BackendError | None = None
        self._is_inside = False  # a call began and did not end
        self._news: list[SequenceOutput] = []  # what the next step to end tells
        self._max_num_seqs = max_num_seqs

    # ---- requests -------------------------------------------------------------------------------------

    def add_request(self, message: EngineRequest) -> None:
        """Queues a request.

        Raises RequestError when it is wrong or could never run, BackendError when the device is gone or sleeps;
        nothing is queued then.
        """
        if self.broken is not None:
            raise copy.copy(self.broken)  # a traceback of its own
        if self._device.is_sleeping:
            raise BackendError("the engine sleeps", because="its KV cache was given back", hint="waking it up")
        self._enter()
        try:
            self._add_request(message)
        except Exception as error:  # whatever checking it raised, it is this request's
            self._is_inside = False
            raise _internal_error(error) from error
        self._is_inside = False

    def _add_request(self, message: EngineRequest) -> None:
        if message.request_id in self._requests or any(end.request_id == message.request_id for end in self._news):
            raise RequestError(
                f"request_id={message.request_id!r} is taken",
                because="that request is not finished",
                hint="another id",
                param="request_id",
            )
        request = make_request(message, self._num_requests, self._limits)
        self.scheduler.add(request)
        self._num_requests += 1
        self._requests[request.request_id] = request
        if request.needs_prompt_logits:
            self._prompt_logprobs.begin(request)

    def abort(self, request_id: str, index: int | None = None) -> list[SequenceOutput]:
        """Ends a request, or one of its sequences, at once; tokens in flight are dropped.

        Returns one output with finish_reason "abort" per sequence that was unfinished ("error" for one that an
        interruption has ended); none for an unknown id, since a request may finish while its abort is on the way.
        """
        self._enter()
        request = self._requests.get(request_id)
        ended = (
            []
            if request is None
            else [seq for seq in request.sequences if seq.status is not Status.FINISHED and index in (None, seq.index)]
        )
        try:
            self._finish_all(ended)
        except Exception as error:  # a bug: nobody knows what of the books is still right
            logger.exception("request %s could not be ended; all requests end", request_id)
            self._news += self.reset(_internal_error(error))
        told = [news for news in self._news if news.request_id == request_id and news.finish_reason is not None]
        self._news = [news for news in self._news if news.request_id != request_id]
        self._is_inside = False
        return [*told, *(_final_output(seq, "abort") for seq in ended if not told)]

    def has_unfinished(self) -> bool:
        """Whether `step` has anything left to do."""
        return self._is_inside or self.scheduler.has_unfinished or bool(self._unread or self._news)

    # ---- steps ----------------------------------------------------------------------------------------

    def step(self) -> list[SequenceOutput]:
        """One iteration; what it brought to each sequence. [] when nothing is to be done or nothing came yet."""
        self._enter()
        try:
            if self.async_depth > 1:
                self._step_overlapped()
            else:
                self._step_plain()
        except Exception as error:  # a bug: nobody knows what of the books is still right
            logger.exception("a step could not be accounted for; its requests are run again, one at a time")
            self._start_over(_internal_error(error))
        news, self._news = self._news, []
        self._is_inside = False
        return news

    def _start_over(self, error: QuireError) -> None:
        """Empty books for the same requests: each sequence goes on from the tokens that it is known to have.

        Who was next to run is suspect, as after a step that failed. One that ran alone ends with the error.
        """
        self._counters.failed_steps += 1
        self._drain()
        given_up = self.scheduler
        suspects = given_up.suspects or [*given_up.running, *given_up.waiting[: self._max_num_seqs]]
        for seq in self._with_unforked(given_up.suspects[:1]):
            if seq.status is not Status.FINISHED:
                self._news.append(_final_output(seq, "error", error))
                seq.status = Status.FINISHED
        self._begin_anew()
        self.scheduler.suspects = [
            seq for seq in suspects if seq.status is Status.WAITING and seq.request.request_id in self._requests
        ]

    def _begin_anew(self) -> None:
        """Empty books and an empty prefix cache; unfinished requests wait with the tokens that they have."""
        self.scheduler, self._builder = self._empty_state()
        for request in list(self._requests.values()):
            if request.is_finished:
                self._forget(request)
            else:
                request.restart()
                self.scheduler.requeue(request)

    def reset(self, error: QuireError) -> list[SequenceOutput]:
        """Ends every request with `error` and begins with empty books and an empty prefix cache."""
        self._drain()
        lost = [
            seq for request in self._requests.values() for seq in request.sequences if seq.status is not Status.FINISHED
        ]
        self._requests.clear()
        self._prompt_logprobs.clear()
        self._num_failed_alone = 0
        self.scheduler, self._builder = self._empty_state()
        return [_final_output(seq, "error", error) for seq in lost]

    def _enter(self) -> None:
        """Begins a call; when the one before was interrupted, ends what it left half done."""
        interrupted, self._is_inside = self._is_inside, True
        if interrupted:
            self._news += self.reset(
                BackendError(
                    "the engine was interrupted in the middle of a step",
                    because="an exception from outside ended it",
                    hint="the request again",
                )
            )

    def _step_plain(self) -> None:
        plan = self.scheduler.schedule()
        if plan.sequences:
            self._submit(plan)
            self._read_all()
        else:
            self._require_progress()

    def _step_overlapped(self) -> None:
        if self._unread and (
            self.scheduler.suspects or any(seq.request.needs_host_tokens for seq in self._unread[0].plan.sampled)
        ):
            self._read_all()
        if self.scheduler.suspects:
            self._step_plain()
            return
        plan = self.scheduler.schedule()
        if not plan.sequences:
            if not self._unread:
                self._require_progress()
            self._read_all()
        elif not self._submit(plan):
            self._read_all()  # nothing may refer to a step that the executor has not seen
        elif len(self._unread) > 1:
            self._read_oldest()

    def _submit(self, plan: StepPlan) -> bool:
        """Whether the executor took the step; `_unread` holds it in any case."""
        self._counters.steps += 1
        try:
            batch, prompt_rows = self._builder.build(plan)
            self._unread.append(SubmittedStep(plan, prompt_rows, self._device.submit(batch)))
        except Exception as error:  # of whatever kind: a plugin may raise anything
            self._unread.append(SubmittedStep(plan, None, _step_error(error)))
            return False
        return True

    def _read_all(self) -> None:
        while self._unread:
            self._read_oldest()

    def _read_oldest(self) -> None:
        """Waits for the oldest unread step and accounts for it."""
        step = self._unread[0]
        try:
            result = step.checked(self._result_of(step))
        except Exception as error:  # of whatever kind: a plugin may raise anything
            self._fail(_step_error(error))
            return
        del self._unread[0]
        self.scheduler.offer_to_cache(step.plan)
        self._was_too_large = False
        if step.plan.sampled:
            self._num_failed_alone = 0
            self._device.note_good_step()
        if step.prompt_rows is not None and result.prompt_logprobs is not None:
            self._prompt_logprobs.put(step.prompt_rows, result.prompt_logprobs)
        self._accept(step.plan, result)

    def _result_of(self, step: SubmittedStep) -> StepResult:
        if isinstance(step.outcome, BackendError):
            raise step.outcome
        return self._device.result_of(step.outcome, self._counters.steps - len(self._unread))

    def _drain(self) -> list[Sequence]:
        """Waits for all unread steps without a look at what they bring; returns who was in them."""
        sequences: dict[int, Sequence] = {}
        while self._unread:
            step = self._unread[0]
            sequences.update((id(seq), seq) for seq in step.plan.unfinished())
            try:
                self._result_of(step)
            except Exception as error:  # they are given up, whatever they say
                logger.debug("a step that is given up: %s", error)
            del self._unread[0]
        return list(sequences.values())

    def _accept(self, plan: StepPlan, result: StepResult) -> None:
        """Gives each sequence its token and ends those that are done; tokens of ended sequences are dropped."""
        tokens, tell, finished = result.tokens[:, 0], self._news.append, Status.FINISHED
        may_be_broken = bool(self.scheduler.suspects or self._prompt_logprobs) or not self._are_tokens(tokens)
        num_tokens = 0
        for row, (seq, token_id) in enumerate(zip(plan.sampled, tokens.tolist(), strict=True)):
            if seq.status is finished or (may_be_broken and self._ends_broken(seq, token_id)):
                continue
            request = seq.request
            try:
                reason = seq.accept(token_id)
                output = SequenceOutput(
                    request.request_id,
                    seq.index,
                    [token_id],
                    reason,
                    _stop_reason(request, token_id) if reason == "stop" else None,
                    None if request.params.logprobs is None else self._logprobs_of(request, result, row),
                    self._prompt_logprobs.take(request) if request.needs_prompt_logits else None,
                    request.num_cached_tokens,
                )
                if reason is not None:
                    self._finish(seq)
                tell(output)  # last: of a sequence whose end fails, the error is told instead
                num_tokens += 1
            except Exception as error:  # a bug, or a result without what was asked for: this request's, nobody else's
                logger.exception("request %s: its token could not be taken; it ends", request.request_id)
                self._end([seq], _internal_error(error))
        self._counters.generated_tokens += num_tokens

    def _are_tokens(self, tokens: I32) -> bool:
        return len(tokens) == 0 or (int(tokens.min()) >= 0 and int(tokens.max()) < self._limits.vocab_size)

    def _ends_broken(self, seq: Sequence, token_id: int) -> bool:
        """Whether a row has no token for its sequence, which ends then. It is no suspect any more."""
        self.scheduler.acquit(seq)
        broken = self._broken_row(seq, token_id)
        if broken is None:
            return False
        if token_id != NO_TOKEN:
            self.scheduler.withdraw(seq)
        self._end([seq], broken)
        return True

    def _broken_row(self, seq: Sequence, token_id: int) -> QuireError | None:
        """Why a row has no token for its sequence."""
        if token_id == NO_TOKEN:
            return nothing_to_draw_error()
        if token_id == NOT_FINITE or self._prompt_logprobs.is_broken(seq.request.request_id):
            logger.error(
                "request %s: its logits hold NaN or an infinity; it ends, others go on", seq.request.request_id
            )
            return not_finite_error()
        if not 0 <= token_id < self._limits.vocab_size:
            return BackendError(
                f"the device drew token {token_id}",
                because=f"the vocabulary has ids 0 to {self._limits.vocab_size - 1}",
                hint="quire conform --device NAME",
            )
        return None

    def _fail(self, error: BackendError) -> None:
        """The oldest unread step failed; those behind it are given up. What happens depends on the error's kind."""
        self._counters.failed_steps += 1
        plan = self._unread[0].plan
        if error.kind == "fatal":
            self._replace_device(error)
            return
        involved = self._drain()
        if error.kind == "out_of_memory" and self._shrinks_after(plan):
            logger.warning(
                "the device had no memory for a step of %d tokens; from now on a step has at most %d",
                plan.num_tokens,
                self._step_limits.max_num_batched_tokens,
            )
            self.scheduler.send_back(involved)
            return
        failed = plan.unfinished()
        named = [plan.sequences[index] for index in dict.fromkeys(error.sequences) if 0 <= index < len(plan.sequences)]
        if error.kind == "sequence" and named:
            self._end_failed([seq for seq in named if seq.status is not Status.FINISHED], error)
            self.scheduler.send_back(seq for seq in involved if seq.status is not Status.FINISHED)
        elif len({id(seq.request) for seq in failed}) == 1:
            self._fail_alone(failed, involved, error)
        else:
            logger.warning("a step failed: %s; its %d sequences are run again, one at a time", error, len(failed))
            self._num_failed_alone = 0
            self.scheduler.send_back(involved)
            self.scheduler.suspects += [seq for seq in failed if seq not in self.scheduler.suspects]

    def _fail_alone(self, failed: list[Sequence], involved: list[Sequence], error: BackendError) -> None:
        """A request that was alone in its step is the reason. When several in a row fail alone, the device is."""
        self._num_failed_alone += 1
        ended = failed
        if self._num_failed_alone >= MOST_FAILED_ALONE:
            logger.error("%d sequences in a row failed alone", self._num_failed_alone)
            if self._device.can_be_replaced:
                self._replace_device(error)
                return
            if self.scheduler.suspects:
                logger.error("the device is given up for the others of their step")
                ended = list(self.scheduler.suspects)
        self._end_failed(ended, error)
        self.scheduler.send_back(seq for seq in involved if seq.status is not Status.FINISHED)

    def _shrinks_after(self, plan: StepPlan) -> bool:
        """Whether steps get smaller than one that the device had no memory for: once, until one is done again."""
        if self._was_too_large or plan.num_tokens < 2:
            return False
        self._was_too_large = True
        budget = min(self._step_limits.max_num_batched_tokens, plan.num_tokens // 2)
        self._step_limits = replace(self._step_limits, max_num_batched_tokens=budget)
        self.scheduler.limits = self._step_limits
        return True

    def _replace_device(self, error: BackendError) -> None:
        """Another executor, on which all unfinished requests are computed again; or the end of all of them."""
        self._unread.clear()  # of the executor that is given up nothing will be read
        self._num_failed_alone = 0
        try:
            self._device.replace(error)
        except Exception as failure:  # of whatever kind: a plugin may raise anything
            self.broken = _step_error(failure)
            logger.error("the device is gone: %s", self.broken, exc_info=failure)
            self._news += self.reset(self.broken)
            return
        self._begin_anew()

    def _end_failed(self, ended: list[Sequence], error: BackendError) -> None:
        ended = self._with_unforked(ended)
        for request_id in dict.fromkeys(seq.request.request_id for seq in ended):
            logger.error("request %s: its step failed and it ends: %s", request_id, error, exc_info=error.__cause__)
        self._end(ended, error)

    def _with_unforked(self, sequences: list[Sequence]) -> list[Sequence]:
        """And those whose prompt they were to compute."""
        return [*sequences, *(other for seq in sequences for other in seq.request.unforked if other not in sequences)]

    def _end(self, sequences: list[Sequence], error: QuireError) -> None:
        """Ends sequences with an error, and tells of it."""
        self._news += [_final_output(seq, "error", error) for seq in sequences]
        try:
            self._finish_all(sequences)
        finally:
            for seq in sequences:  # whatever the books say: of one whose end was told, nothing more may come
                seq.status = Status.FINISHED

    def _finish_all(self, sequences: list[Sequence]) -> None:
        for seq in reversed(sequences):  # unforked ones first, so that none of them starts over
            self._finish(seq)

    def _finish(self, seq: Sequence) -> None:
        self.scheduler.finish(seq)
        if seq.request.is_finished:
            self._forget(seq.request)

    def _forget(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._prompt_logprobs.forget(request.request_id)
        self._counters.requests_finished += 1

    def _require_progress(self) -> None:
        if self.scheduler.has_unfinished:
            raise InternalError(
                "no sequence can be scheduled although some are unfinished",
                because=f"{len(self.scheduler.running)} run, {len(self.scheduler.waiting)} wait",
                hint="please report it",
            )

    # ---- sleep ----------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Gives the memory of the KV cache back; the weights stay. The prefix cache is empty afterwards.

        Raises ConfigError while requests run, BackendError where the device cannot do it.
        """
        if self.broken is not None:
            raise copy.copy(self.broken)
        if self._device.is_sleeping:
            return
        if self._requests or self.has_unfinished():
            raise ConfigError(
                f"the engine cannot sleep: {len(self._requests)} requests run",
                because="they need its KV cache",
                hint="waiting for them, or aborting them",
            )
        self._device.sleep()
        self._begin_anew()

    def wake(self) -> None:
        """Allocates the KV cache again. Raises BackendError when there is no room for it now; it sleeps on, then."""
        if self._device.is_sleeping:
            self._device.wake(self._kv_plan)

    # ---- logprobs -------------------------------------------------------------------------------------

    def _logprobs_of(self, request: Request, result: StepResult, row: int) -> list[TokenLogprobs]:
        if result.logprobs is None:
            raise InternalError("the executor returned no logprobs", because="the step asked for them")
        return [token_logprobs(result.logprobs, row, num_logprobs(request.params.logprobs, self._limits.vocab_size))]

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
            num_replaced_executors=self._device.num_replaced,
            **asdict(self._counters),
        )

    def close(self) -> None:
        """Closes the executor. Unfinished requests get no more outputs, and new ones are refused."""
        self._unread.clear()
        self.broken = self.broken or BackendError("the engine is closed", because="`close` was called")
        self._device.close()


def _step_error(error: Exception) -> BackendError:
    return backend_error(error, "the device failed in a step", "quire conform --device NAME; --log-level debug")


def _internal_error(error: Exception) -> QuireError:
    if isinstance(error, QuireError):
        return error
    return InternalError("the engine failed", because=f"{type(error).__name__}: {error}", hint="reporting it")


def _stop_reason(request: Request, token_id: int) -> int | None:
    return None if token_id in request.eos_token_ids else token_id


def _final_output(seq: Sequence, reason: FinishReason, error: QuireError | None = None) -> SequenceOutput:
    num_cached = max(0, seq.request.num_cached_tokens)
    failure = None if error is None else Failure.of(error)
    return SequenceOutput(seq.request.request_id, seq.index, [], reason, num_cached_tokens=num_cached, error=failure)
