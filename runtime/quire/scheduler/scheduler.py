"""The scheduler: one token budget per step, running sequences first, then waiting ones.

There are no separate prefill and decode phases: every running sequence has tokens to compute, one or a whole
prompt, and gets as many of them as the step has room for. Sequences without room for their blocks lose them
from the far end of the policy's order and are computed again later; none is ever dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quire.errors import InternalError, RequestError
from quire.kv.block_manager import NO_HIT, BlockManager, PrefixHit
from quire.observability.stats import StepCounters
from quire.scheduler.plan import StepPlan
from quire.scheduler.policy import Policy, SequenceQueue, order_key
from quire.scheduler.sequence import Request, Sequence, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Limits of one step.

    Attributes:
        max_num_batched_tokens: the token budget. max_num_seqs: sequences with blocks, and rows that draw.
        long_prefill_token_threshold: most tokens of one sequence; 0 = no limit.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    long_prefill_token_threshold: int = 0


class Scheduler:
    """Owns every unfinished sequence. `running` and `waiting` are in the policy's order.

    `suspects` were in a step that failed. While there are any, a step runs the first of them and nobody else, so that
    a step that fails again has failed because of it; `acquit` ends that. `limits` may become smaller at any time.
    """

    def __init__(self, blocks: BlockManager, limits: SchedulerLimits, policy: Policy, counters: StepCounters) -> None:
        self.blocks = blocks
        self.running = SequenceQueue()
        self.waiting = SequenceQueue()
        self.limits = limits
        self._policy = policy
        self._counters = counters
        self._leading: set[Request] = set()  # running, with sequences that wait for the prompt's end
        self.suspects: list[Sequence] = []  # unfinished

    @property
    def has_unfinished(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Queues the sequences of a new request. Raises RequestError when they could never run."""
        self._check_fits(request)
        for seq in request.sequences:
            seq.order = order_key(self._policy, request, seq.index)
            if seq.status is Status.WAITING:
                self.waiting.put(seq)

    def requeue(self, request: Request) -> None:
        """Queues an unfinished request of a scheduler that was given up, after `Request.restart`."""
        for seq in request.sequences:
            if seq.status is Status.WAITING:
                self.waiting.put(seq)

    def _check_fits(self, request: Request) -> None:
        if len(request.sequences) > self.limits.max_num_seqs:
            raise RequestError(
                f"n={len(request.sequences)} sequences in one request",
                because=f"at most max_num_seqs={self.limits.max_num_seqs} run at a time",
                hint=f"n of {self.limits.max_num_seqs} or less",
                param="n",
            )
        num_stored = request.num_prompt_tokens + request.max_output_tokens - 1  # the last token is never stored
        for name, num_needed in self.blocks.most_blocks(num_stored).items():
            num_blocks = self.blocks.pools[name].num_blocks
            if num_needed > num_blocks:
                raise RequestError(
                    f"{request.num_prompt_tokens} prompt tokens and up to {request.max_output_tokens} output tokens "
                    f"need {num_needed} KV blocks",
                    because=f"the cache has {num_blocks} blocks of {self.blocks.block_size} tokens",
                    hint="a shorter prompt, a smaller max_tokens, or more memory for the KV cache",
                    param="max_tokens",
                )

    # ---- one step -------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan:
        """The next step. Sequences are accounted for as if it were done; their tokens are in flight."""
        plan = StepPlan()
        if self.suspects:
            self._schedule_alone(plan, self.suspects[0])
        else:
            budget = self._schedule_running(plan, self.limits.max_num_batched_tokens)
            if not plan.num_preempted:
                self._schedule_waiting(plan, budget)
        if self._leading:
            self._fork_computed_prompts(plan)
        plan.copies = self.blocks.take_copies()
        return plan

    def _schedule_running(self, plan: StepPlan, budget: int) -> int:
        """Adds running sequences to the plan; returns what they left of the token budget."""
        index = 0
        while index < len(self.running) and budget:
            seq = self.running[index]
            num_new = self._num_new_tokens(seq, seq.num_computed_tokens, budget)
            if num_new:
                if not self._allocate_or_preempt(seq, num_new, plan):
                    break
                plan.add(seq, num_new)
                budget -= num_new
            index += 1
        return budget

    def _schedule_waiting(self, plan: StepPlan, budget: int) -> None:
        while self.waiting and budget:
            seq = self.waiting[0]
            if seq.num_inflight_tokens or not self._has_seats(seq):
                break
            num_new = self._start(seq, plan, budget)
            if not num_new:
                break
            budget -= num_new

    def _start(self, seq: Sequence, plan: StepPlan, budget: int) -> int:
        """Adds a waiting sequence to the plan; returns how many of its tokens run, 0 = it has no room yet."""
        hit = self._find_prefix(seq)
        num_new = self._num_new_tokens(seq, hit.num_tokens, budget)
        if not self._admit(seq, hit, num_new):
            return 0
        plan.admitted.append(seq)
        plan.add(seq, num_new)
        return num_new

    def _schedule_alone(self, plan: StepPlan, suspect: Sequence) -> None:
        """One sequence, whatever it takes from the others: they are computed again later."""
        budget = self.limits.max_num_batched_tokens
        if suspect.status is Status.RUNNING:
            num_new = self._num_new_tokens(suspect, suspect.num_computed_tokens, budget)
            assert suspect.blocks is not None
            while not self.blocks.allocate(suspect.blocks, suspect.num_computed_tokens, num_new):
                self._preempt_another(suspect)
            plan.add(suspect, num_new)
            return
        while not (self._has_seats(suspect) and self._start(suspect, plan, budget)):
            self._preempt_another(suspect)

    def _preempt_another(self, suspect: Sequence) -> None:
        others = [seq for seq in self.running if seq is not suspect]
        if not others:
            raise InternalError("a sequence that runs alone has no room", because="it had room among others before")
        self._preempt(others[-1])

    def _num_new_tokens(self, seq: Sequence, num_computed: int, budget: int) -> int:
        """Tokens of `seq` in this step; 0 = none now, its last token is in flight."""
        if seq.num_tokens >= seq.max_num_tokens:
            return 0
        num_new = seq.num_tokens - num_computed
        if num_new == 1:
            return 1
        num_new = min(num_new, budget, self.limits.long_prefill_token_threshold or budget)
        every = self.blocks.checkpoint_tokens
        return min(num_new, every - num_computed % every) if every else num_new

    def _allocate_or_preempt(self, seq: Sequence, num_new: int, plan: StepPlan) -> bool:
        """Slots for `seq`, at the cost of the last running ones; False when `seq` was the last and lost its own."""
        assert seq.blocks is not None
        while not self.blocks.allocate(seq.blocks, seq.num_computed_tokens, num_new):
            victim = self.running[-1]  # not in this step's plan: the plan is filled in the same order
            self._preempt(victim)
            plan.num_preempted += 1
            if victim is seq:
                return False
        return True

    def _admit(self, seq: Sequence, hit: PrefixHit, num_new: int) -> bool:
        """Gives a waiting sequence blocks, if all of its tokens so far could be held."""
        block_size = self.blocks.block_size
        hashes = seq.hashes_of(hit.num_blocks, block_size)
        if not self.blocks.has_room(hit, hashes, seq.num_tokens):
            return False
        blocks = self.blocks.open(hit, hashes)
        if not self.blocks.allocate(blocks, hit.num_tokens, num_new):
            raise InternalError("a sequence was admitted without room for its first tokens")
        self.waiting.take(seq)
        seq.blocks, seq.num_computed_tokens = blocks, hit.num_tokens
        self._count_admission(seq, hit)
        self._run(seq)
        if seq.request.unforked:
            self._leading.add(seq.request)
        return True

    def _find_prefix(self, seq: Sequence) -> PrefixHit:
        if seq.request.needs_prompt_logits or not self.blocks.enable_prefix_caching:
            return NO_HIT
        block_size = self.blocks.block_size
        return self.blocks.find_prefix(seq.hashes_of((seq.num_tokens - 1) // block_size, block_size))

    def _count_admission(self, seq: Sequence, hit: PrefixHit) -> None:
        self._counters.prefix_query_tokens += seq.num_tokens if self.blocks.enable_prefix_caching else 0
        self._counters.prefix_hit_tokens += hit.num_tokens
        if seq.request.num_cached_tokens < 0:
            seq.request.num_cached_tokens = min(hit.num_tokens, seq.num_prompt_tokens)
            self._counters.prompt_tokens += seq.num_prompt_tokens

    # ---- sequences that share a prompt ----------------------------------------------------------------

    def _has_seats(self, seq: Sequence) -> bool:
        """Whether `seq` and all that will fork from it can run beside the running ones and their forks."""
        num_reserved = sum(len(request.unforked) for request in self._leading)
        return len(self.running) + num_reserved + 1 + len(seq.request.unforked) <= self.limits.max_num_seqs

    def _fork_computed_prompts(self, plan: StepPlan) -> None:
        """Where a leader draws its first token, its unforked sequences draw theirs from the same logits."""
        for leader, row in list(zip(plan.sampled, plan.sampled_from, strict=True)):
            request = leader.request
            if not request.unforked:
                continue
            assert leader.blocks is not None
            for seq in request.unforked:
                seq.blocks = self.blocks.fork(leader.blocks)
                seq.num_computed_tokens = leader.num_computed_tokens
                seq.block_hashes = list(leader.block_hashes)
                self._run(seq)
                plan.admitted.append(seq)
                plan.draw(seq, row)
            request.unforked.clear()
            self._leading.discard(request)

    # ---- changes of state -----------------------------------------------------------------------------

    def _run(self, seq: Sequence) -> None:
        seq.status = Status.RUNNING
        self.running.put(seq)

    def _leave(self, seq: Sequence) -> None:
        """Takes a sequence out of its queue and gives back its blocks."""
        if seq.status is Status.WAITING:
            self.waiting.take(seq)
        elif seq.status is Status.RUNNING:
            assert seq.blocks is not None
            self.running.take(seq)
            self.blocks.free(seq.blocks)
            self._leading.discard(seq.request)
            seq.blocks = None

    def _preempt(self, seq: Sequence) -> None:
        self._leave(seq)
        seq.status = Status.WAITING
        seq.num_computed_tokens = 0
        self.waiting.put(seq)
        self._counters.preemptions += 1

    def send_back(self, sequences: Iterable[Sequence]) -> None:
        """Sequences of steps that are given up go on from the tokens they are known to have.

        No submitted step may be unread: tokens in flight are forgotten.
        """
        for seq in sequences:
            seq.forget_inflight()
            if seq.status is Status.RUNNING:
                self._preempt(seq)

    def acquit(self, seq: Sequence) -> None:
        """A suspect ran alone and did not fail."""
        if seq in self.suspects:
            self.suspects.remove(seq)

    def withdraw(self, seq: Sequence) -> None:
        """Takes a sequence's blocks out of the prefix cache: what was computed for it is not to be trusted."""
        if seq.blocks is not None:
            self.blocks.withdraw(seq.blocks)

    def finish(self, seq: Sequence) -> None:
        """Ends a sequence wherever it is. When it led unforked ones, the first of them starts over in its place."""
        unforked = seq.request.unforked
        if seq.status is Status.UNFORKED:
            unforked.remove(seq)
        elif unforked:
            heir = unforked.pop(0)
            heir.status = Status.WAITING
            self.waiting.put(heir)
        self._leave(seq)
        seq.status = Status.FINISHED
        self.acquit(seq)

    def offer_to_cache(self, plan: StepPlan) -> None:
        """Makes the blocks that a finished step filled findable, where prefix caching is on.

        Without it a block keeps no key, so it is the next to be handed out: the cache stays as small as what is used.
        """
        if not self.blocks.enable_prefix_caching:
            return
        block_size = self.blocks.block_size
        for seq, start, num_new in zip(plan.sequences, plan.starts, plan.num_new, strict=True):
            if seq.blocks is not None and start + num_new >= (seq.blocks.num_offered + 1) * block_size:
                num_full = (start + num_new) // block_size
                self.blocks.offer_to_cache(seq.blocks, seq.hashes_of(num_full, block_size), num_full)
