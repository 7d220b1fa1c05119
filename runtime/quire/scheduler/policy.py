"""Scheduling policies: an order of sequences, and a queue that keeps it."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Literal

from quire.errors import InternalError
from quire.scheduler.sequence import Request, Sequence

Policy = Literal["fcfs", "priority"]


def order_key(policy: Policy, request: Request, index: int) -> tuple[float, ...]:
    """Sort key of a sequence: who runs first, and from the other end, who is preempted first.

    fcfs: as requests came. priority: lower `priority` first, then earlier `arrival_time_s`, then as they came.
    """
    if policy == "priority":
        return (request.priority, request.arrival_time_s, request.number, index)
    return (request.number, index)


def _order(sequence: Sequence) -> tuple[float, ...]:
    return sequence.order


class SequenceQueue(list[Sequence]):
    """A list of sequences in the policy's order, whichever way they came: new, preempted or forked.

    It is changed by `put` and `take` only.
    """

    def put(self, sequence: Sequence) -> None:
        """Puts a sequence into its place."""
        insort(self, sequence, key=_order)

    def take(self, sequence: Sequence) -> None:
        """Takes a sequence out, wherever it stands."""
        index = bisect_left(self, sequence.order, key=_order)
        if index == len(self) or self[index] is not sequence:
            raise InternalError(f"sequence {sequence.index} of {sequence.request.request_id} is not in its queue")
        del self[index]
