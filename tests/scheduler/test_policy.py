from __future__ import annotations

from random import Random

import numpy as np
import pytest

from quire.errors import InternalError
from quire.sampling_params import SamplingParams
from quire.scheduler import Request, Sequence, SequenceQueue, order_key


def request(number: int, priority: int = 0, arrival_time_s: float = 0.0) -> Request:
    return Request(
        str(number),
        np.zeros(1, np.int32),
        SamplingParams(),
        1,
        0,
        number,
        b"",
        priority=priority,
        arrival_time_s=arrival_time_s,
    )


def test_fcfs_looks_at_nothing_but_the_order_of_arrival() -> None:
    first, second = request(0, priority=9, arrival_time_s=5.0), request(1)
    assert order_key("fcfs", first, 3) < order_key("fcfs", second, 0)


def test_priority_then_arrival_then_number_then_index() -> None:
    urgent, early, late = request(2, -1, 9.0), request(1, 0, 1.0), request(0, 0, 2.0)
    keys = [order_key("priority", *pair) for pair in ((urgent, 1), (early, 0), (early, 1), (late, 0))]
    assert keys == sorted(keys)


def test_the_queue_keeps_the_order_through_puts_and_takes() -> None:
    random, queue = Random(0), SequenceQueue()
    sequences = [Sequence(request(number), 0, order=(number,)) for number in range(20)]
    for seq in random.sample(sequences, 20):
        queue.put(seq)
    for seq in random.sample(sequences, 10):
        queue.take(seq)
        sequences.remove(seq)
    assert list(queue) == sequences
    with pytest.raises(InternalError):
        queue.take(Sequence(request(99), 0, order=(99,)))
