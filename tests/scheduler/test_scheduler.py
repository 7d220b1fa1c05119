"""The scheduler alone: plans are looked at, tokens are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.device.contract import KVPlan
from quire.errors import RequestError
from quire.graph.ir import KVGroupSpec
from quire.kv import BlockManager, root_hash
from quire.observability.stats import StepCounters
from quire.sampling_params import SamplingParams
from quire.scheduler import Request, Scheduler, SchedulerLimits, Sequence, Status, StepPlan


class Bench:
    """A scheduler with one full KV group; `finish_step` gives every draw token 1."""

    def __init__(
        self,
        num_blocks: int = 32,
        *,
        budget: int = 8,
        max_num_seqs: int = 4,
        policy: Any = "fcfs",
        caching: bool = True,
        threshold: int = 0,
    ) -> None:
        blocks = BlockManager(
            {"full": KVGroupSpec("full", 0, (), 1, "kv")},
            KVPlan(num_blocks={"kv": num_blocks}),
            block_size=4,
            max_model_len=64,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            enable_prefix_caching=caching,
        )
        limits = SchedulerLimits(
            max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, long_prefill_token_threshold=threshold
        )
        self.counters = StepCounters()
        self.scheduler = Scheduler(blocks, limits, policy, self.counters)
        self.number = 0

    def add(
        self, num_prompt: int, *, num_sequences: int = 1, max_output: int = 8, priority: int = 0, first: int = 0
    ) -> Request:
        prompt = np.arange(first, first + num_prompt, dtype=np.int32)
        request = Request(
            str(self.number), prompt, SamplingParams(), max_output, 0, self.number, root_hash(), priority=priority
        )
        request.sequences.extend(Sequence(request, index) for index in range(num_sequences))
        for seq in request.sequences[1:]:
            seq.status = Status.UNFORKED
            request.unforked.append(seq)
        self.number += 1
        self.scheduler.add(request)
        return request

    def finish_step(self, plan: StepPlan) -> None:
        self.scheduler.offer_to_cache(plan)
        for seq in plan.sampled:
            if seq.accept(1) is not None:
                self.scheduler.finish(seq)

    def step(self) -> list[tuple[str, int]]:
        plan = self.scheduler.schedule()
        self.finish_step(plan)
        return shape(plan)


def shape(plan: StepPlan) -> list[tuple[str, int]]:
    return [(seq.request.request_id, num) for seq, num in zip(plan.sequences, plan.num_new, strict=True)]


def test_running_first_then_waiting_and_the_rest_of_the_budget_is_a_chunk() -> None:
    bench = Bench()
    bench.add(3)
    bench.add(10, first=20)
    assert bench.step() == [("0", 3), ("1", 5)]
    assert bench.step() == [("0", 1), ("1", 5)]
    assert bench.step() == [("0", 1), ("1", 1)]


def test_one_long_prompt_may_be_capped() -> None:
    bench = Bench(threshold=3)
    bench.add(10)
    bench.add(10, first=20)
    assert bench.step() == [("0", 3), ("1", 3)]


def test_max_num_seqs_counts_sequences_and_keeps_seats_for_forks() -> None:
    bench = Bench(max_num_seqs=4)
    bench.add(10, num_sequences=3)
    bench.add(2, first=20)
    bench.add(2, first=30)
    assert bench.step() == [("0", 8)]
    assert bench.step() == [("0", 2), ("1", 2)]
    assert len(bench.scheduler.running) == 4
    assert [request for request, _ in bench.step()] == ["0", "0", "0", "1"]


def test_the_last_in_order_are_preempted_and_keep_their_order() -> None:
    bench = Bench(5, budget=16, caching=False)
    bench.add(7)
    bench.add(7, first=20)
    bench.add(1, first=40)
    assert bench.step() == [("0", 7), ("1", 7), ("2", 1)]
    assert bench.step() == [("0", 1), ("1", 1), ("2", 1)]
    plan = bench.scheduler.schedule()  # 0 takes its third block from 2; 1 is then the last and gives way itself
    assert shape(plan) == [("0", 1)]
    assert [seq.request.request_id for seq in bench.scheduler.waiting] == ["1", "2"]
    assert bench.counters.preemptions == plan.num_preempted == 2
    assert all(seq.num_computed_tokens == 0 and seq.blocks is None for seq in bench.scheduler.waiting)


def test_priority_preempts_the_least_urgent_whenever_it_came() -> None:
    bench = Bench(4, budget=16, policy="priority", caching=False)
    bench.add(7, priority=9)
    bench.step()
    bench.add(7, priority=0, first=20)
    assert bench.step() == [("0", 1), ("1", 7)]
    assert [seq.request.request_id for seq in bench.scheduler.running] == ["1", "0"]
    assert bench.step() == [("1", 1)]
    assert bench.counters.preemptions == 1


def test_a_preempted_sequence_waits_for_its_token_in_flight() -> None:
    bench = Bench(4, budget=16, caching=False)
    early = bench.add(8).sequences[0]
    late = bench.add(8, first=20).sequences[0]
    first = bench.scheduler.schedule()
    assert late.num_inflight_tokens == 1
    second = bench.scheduler.schedule()  # both need a third block; the step before is not read
    assert late.status is Status.WAITING
    assert late.num_tokens == 9
    bench.scheduler.finish(early)
    assert shape(bench.scheduler.schedule()) == []
    bench.finish_step(first)
    bench.finish_step(second)
    assert late.output_token_ids == [1]
    assert shape(bench.scheduler.schedule()) == [("1", 9)]


def test_a_prompt_is_admitted_only_when_it_fits_whole() -> None:
    bench = Bench(5, budget=8)
    bench.add(8)
    bench.add(12, first=20, max_output=1)
    assert bench.step() == [("0", 8)]
    assert bench.step() == [("0", 1)]  # 2 blocks are free, 3 would be needed


def test_what_can_never_fit_is_refused_with_numbers() -> None:
    bench = Bench(4)
    with pytest.raises(RequestError, match=r"10 prompt tokens and up to 8 output tokens need 5 KV blocks"):
        bench.add(10)
    bench.add(9)
    with pytest.raises(RequestError, match="n=5"):
        bench.add(1, num_sequences=5)


def test_nothing_is_scheduled_beyond_the_last_token_in_flight() -> None:
    bench = Bench()
    bench.add(3, max_output=2)
    assert shape(bench.scheduler.schedule()) == [("0", 3)]
    assert shape(bench.scheduler.schedule()) == [("0", 1)]
    assert shape(bench.scheduler.schedule()) == []


def test_blocks_are_found_only_after_their_step_is_read() -> None:
    bench = Bench(budget=32)
    bench.add(9)
    plan = bench.scheduler.schedule()
    bench.add(9)
    assert shape(bench.scheduler.schedule()) == [("0", 1), ("1", 9)]
    bench.finish_step(plan)
    bench.add(9)
    assert ("2", 1) in shape(bench.scheduler.schedule())
    assert bench.counters.prefix_hit_tokens == 8


def test_finishing_in_every_state_leaves_nothing_behind() -> None:
    bench = Bench()
    running, waiting = bench.add(4, num_sequences=2), bench.add(30, first=20, num_sequences=2)
    bench.step()
    for seq in (waiting.sequences[1], waiting.sequences[0], *running.sequences):
        bench.scheduler.finish(seq)
    assert not bench.scheduler.has_unfinished
    assert bench.scheduler.blocks.num_used_blocks == 0
    assert shape(bench.scheduler.schedule()) == []


def test_without_prefix_caching_the_same_blocks_serve_one_request_after_the_other() -> None:
    bench = Bench(caching=False)
    tables, used = bench.scheduler.blocks.groups["full"].tables, set()
    for first in (0, 100, 200):
        request = bench.add(8, max_output=4, first=first)
        while request.sequences[0].status is not Status.FINISHED:
            bench.step()
            blocks = request.sequences[0].blocks
            used |= set(tables[blocks.row, : blocks.num_blocks].tolist()) if blocks else set()
    assert len(used) == 3
    assert bench.scheduler.blocks.num_cached_blocks == 0
