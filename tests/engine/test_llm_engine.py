"""Engine and front end in one thread, stepped by hand, on the fake device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine
from quire.errors import BackendError, ConfigError, RequestError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams
from quire.testing import FakeFaults

GREEDY = SamplingParams(temperature=0, max_tokens=5)


@pytest.fixture
def make(byte_model: Path) -> Iterator[Callable[..., LLMEngine]]:
    engines: list[LLMEngine] = []

    def make_engine(**options: Any) -> LLMEngine:
        engines.append(LLMEngine(EngineConfig(model=str(byte_model), device="fake", load_format="dummy", **options)))
        return engines[-1]

    yield make_engine
    for engine in engines:
        engine.close()


def drain(engine: LLMEngine) -> dict[str, RequestOutput]:
    finished = {}
    while engine.has_unfinished():
        finished.update({output.request_id: output for output in engine.step() if output.finished})
    return finished


def test_requests_in_any_order(make: Callable[..., LLMEngine]) -> None:
    engine = make()
    first = engine.add_request("a", GREEDY)
    second = engine.add_request([104], GREEDY, request_id="mine")
    done = drain(engine)
    assert (done[first].outputs[0].text, done[second].outputs[0].text, second) == ("bcdef", "ijklm", "mine")
    assert not engine.has_unfinished()
    stats = engine.stats()
    assert (stats.num_used_blocks, stats.num_running, stats.num_waiting, stats.requests_finished) == (0, 0, 0, 2)


def test_abort_and_stop_strings_free_all_blocks(make: Callable[..., LLMEngine]) -> None:
    engine = make()
    for _ in range(3):
        engine.add_request("a", SamplingParams(temperature=0, max_tokens=60, stop="ghi", n=2))
    aborted = engine.add_request("a", GREEDY)
    engine.step()
    engine.abort(aborted)
    engine.abort("never seen")
    assert {output.outputs[1].text for output in drain(engine).values()} == {"bcdef"}
    assert engine.stats().num_used_blocks == 0


def test_a_refused_request_leaves_nothing(make: Callable[..., LLMEngine]) -> None:
    engine = make(num_kv_blocks=4)
    with pytest.raises(RequestError, match="KV blocks"):
        engine.add_request("a", SamplingParams(max_tokens=500))
    engine.add_request("a", GREEDY, request_id="x")
    with pytest.raises(RequestError, match="is taken"):
        engine.add_request("b", GREEDY, request_id="x")
    assert drain(engine)["x"].outputs[0].text == "bcdef"


def test_a_request_that_the_device_fails_says_so(make: Callable[..., LLMEngine]) -> None:
    engine = make()
    engine.loaded.core._device.executor.faults = FakeFaults({("result", 1): "step"})  # type: ignore[union-attr]
    request_id = engine.add_request("a", GREEDY)
    output = drain(engine)[request_id]
    assert (output.finished, output.outputs[0].finish_reason) == (True, "error")
    assert "failed on the device" in str(output.error)
    assert not engine.has_unfinished()
    assert engine.stats().num_used_blocks == 0


def test_more_requests_than_blocks_take_turns(make: Callable[..., LLMEngine]) -> None:
    engine = make(num_kv_blocks=6, block_size=4, async_scheduling=False)
    params = SamplingParams(temperature=0, max_tokens=12)
    ids = [engine.add_request([97 + number], params) for number in range(6)]
    done = drain(engine)
    for number, request_id in enumerate(ids):
        assert done[request_id].outputs[0].token_ids == list(range(98 + number, 110 + number))
    assert engine.stats().num_used_blocks == 0


def test_chat_prompt(make: Callable[..., LLMEngine]) -> None:
    assert make().render_chat([{"role": "user", "content": "hi"}]) == "[user]hi>"
    with pytest.raises(RequestError, match="without a tokenizer"):
        make(skip_tokenizer_init=True).render_chat([{"role": "user", "content": "hi"}])


def test_what_was_resolved(make: Callable[..., LLMEngine]) -> None:
    limits = make(max_model_len=100, max_num_seqs=3, max_logprobs=1, scheduling_policy="priority").loaded.limits
    assert (limits.max_model_len, limits.max_num_seqs, limits.max_logprobs, limits.scheduling_policy) == (
        100,
        3,
        1,
        "priority",
    )


def test_a_cache_that_is_too_small_names_the_flag(make: Callable[..., LLMEngine]) -> None:
    with pytest.raises(BackendError, match="out of memory"):
        make(device_options={"memory_blocks": 1})
    with pytest.raises(ConfigError):
        make(memory_utilization=1e-9)


@pytest.mark.parametrize("place", ["schedule", "finish"])
def test_who_was_ended_by_an_interruption_is_told_of(
    make: Callable[..., LLMEngine], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The caller neither aborts nor looks: what he adds next is right, and nothing is waited for in vain."""
    engine = make()
    engine.add_request("a", GREEDY, request_id="old")

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.loaded.core.scheduler, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            drain(engine)
    engine.add_request("h", GREEDY, request_id="new")
    done = drain(engine)
    assert done["new"].outputs[0].text == "ijklm"
    assert (done["old"].outputs[0].finish_reason, type(done["old"].error)) == ("error", BackendError)
    assert engine.stats().num_used_blocks == 0


def test_an_end_that_nobody_was_told_of(make: Callable[..., LLMEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    engine.add_request("a", GREEDY, request_id="old")
    core = engine.loaded.core
    step = core.step

    def loses_the_end() -> Any:
        if any(output.finish_reason for output in step()):
            raise KeyboardInterrupt
        return []

    with monkeypatch.context() as patch:
        patch.setattr(core, "step", loses_the_end)
        with pytest.raises(KeyboardInterrupt):
            drain(engine)
    assert "was lost" in str(drain(engine)["old"].error)


def test_when_one_sequence_fails_its_request_ends(make: Callable[..., LLMEngine]) -> None:
    """The others of its `n` do not go on unseen."""
    engine = make()
    engine.loaded.core._device.executor.broken_token = ord("f")  # type: ignore[attr-defined]
    params = SamplingParams(n=3, temperature=1.5, seed=2, max_tokens=200)
    engine.add_request("a", params, request_id="bad")
    engine.add_request("h", GREEDY, request_id="good")
    done = drain(engine)
    assert "NaN" in str(done["bad"].error)
    assert len(done["bad"].outputs[0].token_ids) < 200
    assert done["good"].outputs[0].text == "ijklm"
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
