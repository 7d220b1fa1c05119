"""What the core costs per step, without a device: schedule, build the batch, account for the tokens."""

from __future__ import annotations

import time
from statistics import median, quantiles
from typing import Any

import numpy as np

from quire.device.batch import StepBatch, StepResult
from quire.engine.core import EngineCore
from quire.engine.messages import EngineRequest
from quire.sampling_params import SamplingParams
from quire.testing.fake_device import FakeExecutor, FakeStep, fake_executor, fake_model

Clocks = tuple[float, float]
"""Seconds: wall clock, processor time of this thread."""


def clocks() -> Clocks:
    """Both clocks now."""
    return time.perf_counter(), time.thread_time()


class _Stopwatch:
    """A fake executor around which the clocks stand still."""

    def __init__(self, executor: FakeExecutor) -> None:
        self.capabilities = executor.capabilities
        self.away = (0.0, 0.0)
        self._executor = executor
        self.load, self.allocate_kv = executor.load, executor.allocate_kv
        self.read_blocks, self.write_blocks, self.close = executor.read_blocks, executor.write_blocks, executor.close

    def submit(self, batch: StepBatch) -> _TimedStep:
        start = clocks()
        step = self._executor.submit(batch)
        self.stand_still(start)
        return _TimedStep(self, step)

    def stand_still(self, start: Clocks) -> None:
        now = clocks()
        self.away = (self.away[0] + now[0] - start[0], self.away[1] + now[1] - start[1])


class _TimedStep:
    def __init__(self, stopwatch: _Stopwatch, step: FakeStep) -> None:
        self._stopwatch, self._step = stopwatch, step

    def result(self) -> StepResult:
        start = clocks()
        result = self._step.result()
        self._stopwatch.stand_still(start)
        return result


def run_core_bench(
    num_seqs: int = 256,
    *,
    num_steps: int = 400,
    prompt_len: int = 100,
    block_size: int = 16,
    async_depth: int = 2,
    temperature: float = 0.0,
    vocab_size: int = 1000,
    enable_prefix_caching: bool = True,
) -> dict[str, Any]:
    """Times the decode steps of `num_seqs` running sequences on the fake device, whose own time is taken out.

    Prompts have `prompt_len` to `prompt_len + block_size - 1` tokens, so that a step opens a block for one sequence
    in `block_size`.

    Returns: the settings, and seconds per step of everything the core does: median_s, p90_s, min_s by the wall
        clock, cpu_median_s by processor time, which on a busy machine is the one to look at.
    """
    max_model_len = prompt_len + block_size + num_steps + 20
    num_blocks = num_seqs * -(-max_model_len // block_size)
    num_prompt_tokens = num_seqs * (prompt_len + block_size)
    model = fake_model(vocab_size)
    executor, kv_plan = fake_executor(
        model,
        num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=num_prompt_tokens,
        max_num_seqs=num_seqs,
        async_depth=async_depth,
        verify=False,
    )
    stopwatch = _Stopwatch(executor)
    core = EngineCore(
        stopwatch,
        model,
        kv_plan,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=num_prompt_tokens,
        max_num_seqs=num_seqs,
        enable_prefix_caching=enable_prefix_caching,
    )
    random = np.random.default_rng(0)
    params = SamplingParams(temperature=temperature, max_tokens=num_steps + 10, ignore_eos=True)
    for number in range(num_seqs):
        prompt = tuple(random.integers(0, vocab_size, prompt_len + number % block_size).tolist())
        core.add_request(EngineRequest(request_id=str(number), prompt_token_ids=prompt, params=params))
    for _ in range(3):  # the prompts, and the first step to be read
        core.step()
    steps = [_time_step(core, stopwatch) for _ in range(num_steps)]
    times_s = [wall_s for wall_s, _ in steps]
    core.close()
    return {
        "num_seqs": num_seqs,
        "num_steps": num_steps,
        "prompt_len": prompt_len,
        "block_size": block_size,
        "async_depth": async_depth,
        "temperature": temperature,
        "enable_prefix_caching": enable_prefix_caching,
        "median_s": median(times_s),
        "p90_s": quantiles(times_s, n=10)[-1],
        "min_s": min(times_s),
        "cpu_median_s": median(cpu_s for _, cpu_s in steps),
    }


def _time_step(core: EngineCore, stopwatch: _Stopwatch) -> Clocks:
    stopwatch.away = (0.0, 0.0)
    start = clocks()
    outputs = core.step()
    end = clocks()
    assert outputs, "a decode step brings a token to every sequence"
    return end[0] - start[0] - stopwatch.away[0], end[1] - start[1] - stopwatch.away[1]
