"""Silence is stuck, unless the process computes or nobody listened. The clock is the test's."""

from __future__ import annotations

import os

from quire.engine.liveness import Liveness, process_cpu_time_s


class World:
    """A clock, a process's processor time, and its Liveness with a timeout of 10 s."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 0.0
        self.liveness = Liveness(10.0, lambda: self.cpu_s, lambda: self.now_s)

    def go(self, seconds: float, *, cpu_share: float = 0.0) -> None:
        for _ in range(int(seconds)):
            self.now_s += 1
            self.cpu_s += cpu_share
            self.liveness.look()


def test_who_is_silent_and_idle_is_stuck_until_it_is_heard() -> None:
    world = World()
    world.go(10)
    assert world.liveness.stuck_s() == 0
    world.go(1)
    assert world.liveness.stuck_s() == 11
    world.liveness.hear()
    assert world.liveness.stuck_s() == 0


def test_a_step_that_computes_has_longer_but_not_for_ever() -> None:
    world = World()
    world.go(40, cpu_share=1.0)
    assert world.liveness.stuck_s() == 0
    world.go(1, cpu_share=1.0)
    assert world.liveness.stuck_s() == 41


def test_a_step_that_stops_computing() -> None:
    world = World()
    world.go(20, cpu_share=1.0)
    world.go(5)
    assert world.liveness.stuck_s() == 0
    world.go(1)
    assert world.liveness.stuck_s() == 26


def test_a_parent_that_was_away_judges_nobody() -> None:
    world = World()
    world.now_s += 1000
    assert world.liveness.stuck_s() == 0
    world.go(11)
    assert world.liveness.stuck_s() == 11


def test_the_processor_time_of_a_process() -> None:
    before_s = process_cpu_time_s(os.getpid())
    while sum(os.times()[:2]) < (before_s or 0) + 0.05:
        pass
    assert (process_cpu_time_s(os.getpid()) or 0) > (before_s or 0) or not os.path.exists("/proc/self/stat")
    assert process_cpu_time_s(2**30) is None
