"""Steps that fail on a real device because of one prompt: who shares them gets the answer that he gets alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.device.step_line import PendingStep
from quire.engine.step_builder import StepBuilder
from quire_cpu.executor import CpuExecutor

PROMPTS = ["A KV cache is", "Paged attention keeps", "A block table"]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=16, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=4, max_tokens=12, ignore_eos=True, n=3, top_k=30),
    SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=1, prompt_logprobs=0, presence_penalty=0.5),
]
EVIL_TOKENS = 60
"""The evil prompt is longer than anything else here; that is how the faults below know it."""


@pytest.fixture(scope="module", params=[1, 2])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with LLM("demo", device="cpu", max_model_len=128, async_scheduling=request.param == 2) as opened:
        yield opened


def is_evil(batch: Any) -> bool:
    return int(batch.seq_lens.max()) >= EVIL_TOKENS


def raise_in(patch: pytest.MonkeyPatch, place: str) -> None:
    """A fault of the evil prompt's steps."""
    submit, result, build = CpuExecutor.submit, PendingStep.result, StepBuilder.build
    evil_steps: set[int] = set()

    def failing_submit(self: CpuExecutor, batch: Any) -> PendingStep:
        if is_evil(batch):
            if place == "submit":
                raise MemoryError("no room for this step")
            evil_steps.add(batch.step)
        return submit(self, batch)

    def failing_result(self: PendingStep) -> Any:
        found = result(self)
        if place == "result" and self._number in evil_steps:
            raise RuntimeError("the device lost this step")
        return found

    def failing_build(self: StepBuilder, plan: Any) -> Any:
        if place == "build" and any(seq.num_tokens >= EVIL_TOKENS for seq in plan.sequences):
            raise KeyError("a bug of the builder")
        return build(self, plan)

    patch.setattr(CpuExecutor, "submit", failing_submit)
    patch.setattr(PendingStep, "result", failing_result)
    patch.setattr(StepBuilder, "build", failing_build)


@pytest.mark.parametrize("place", ["submit", "result", "build"])
def test_neighbours_of_a_prompt_that_breaks_its_steps(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    def answers(outputs: list[Any]) -> list[Any]:
        return [
            ([(one.token_ids, one.text, one.logprobs) for one in output.outputs], output.prompt_logprobs)
            for output in outputs
        ]

    expected = answers(llm.generate(PROMPTS, PARAMS))
    evil = {"prompt_token_ids": list(range(5, 5 + EVIL_TOKENS))}
    with monkeypatch.context() as patch:
        raise_in(patch, place)
        *healthy, broken = llm.generate([*PROMPTS, evil], [*PARAMS, PARAMS[0]])
    assert answers(healthy) == expected
    assert (broken.outputs[0].finish_reason, broken.error is not None) == ("error", True)
    assert any(
        broken.error.because in record.getMessage() and "ends" in record.getMessage() for record in caplog.records
    )
    assert llm.engine.stats().num_used_blocks == 0
    assert answers(llm.generate(PROMPTS, PARAMS)) == expected
