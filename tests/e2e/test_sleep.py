"""An engine that gives its KV cache back and takes it again: memory goes, answers stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.errors import BackendError

PARAMS = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["A KV cache is", "Paged attention keeps the keys and values of every token in blocks, so that"]


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.mark.parametrize("device", ["cpu", "torch", "reference", "fake"])
def test_answers_after_a_sleep_are_those_before(device: str) -> None:
    with LLM("demo", device=device, max_model_len=256) as llm:
        before = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]
        for _ in range(2):
            llm.sleep()
            llm.sleep()
            with pytest.raises(BackendError, match="the engine sleeps"):
                llm.generate("hello", PARAMS)
            llm.wake_up()
            llm.wake_up()
            after = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]
            assert after == before
        assert llm.engine.stats().num_used_blocks == 0


def test_memory_of_the_cache_goes_to_others_on_cpu() -> None:
    with LLM("demo", device="cpu", max_model_len=2048, num_kv_blocks=2000, block_size=64) as llm:
        llm.generate(["word " * 1500] * 2, PARAMS)
        awake = resident_bytes()
        llm.sleep()
        asleep = resident_bytes()
        assert awake - asleep > 8 * 2**20
        llm.wake_up()
        assert llm.generate(PROMPTS, PARAMS)[0].error is None
