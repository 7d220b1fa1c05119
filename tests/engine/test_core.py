from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.engine.core import EngineCore
from quire.errors import BackendError, ConfigError, RequestError
from quire.testing import fake_executor, fake_model

Drive = Callable[..., Any]

both_loops = pytest.mark.parametrize("depth", [1, 2])


@both_loops
def test_tokens_are_the_fake_devices_arithmetic(drive: Drive, depth: int) -> None:
    driver = drive(depth=depth)
    driver.add("a", [1, 2, 3], max_tokens=4)
    driver.add("b", [48], max_tokens=3)
    assert driver.run() == {("a", 0): [4, 5, 6, 7], ("b", 0): [49, 0, 1]}
    assert driver.finish_reason("a") == "length"


def test_the_overlapped_loop_submits_before_it_reads(drive: Drive) -> None:
    driver = drive(depth=2)
    driver.add("a", [1], max_tokens=3)
    assert driver.step() == []
    assert driver.executor.num_submitted == 1
    assert [output.new_token_ids for output in driver.step()] == [[2]]
    assert driver.executor.num_submitted == 2
    driver.run()
    assert driver.executor.num_submitted == 3  # max_tokens is known without reading: no step too many


@pytest.mark.parametrize(
    "option", [{"presence_penalty": 1.0}, {"repetition_penalty": 2.0}, {"bad_words_token_ids": ((2, 3),)}]
)
def test_draws_that_need_the_host_are_not_overlapped(drive: Drive, option: dict[str, Any]) -> None:
    driver = drive(depth=2)
    driver.add("a", [1], max_tokens=4, **option)
    driver.step()
    for _ in range(3):
        assert len(driver.step()) == 1
    driver.run()
    plain = drive(depth=1)
    plain.add("a", [1], max_tokens=4, **option)
    assert plain.run() == driver.tokens


@both_loops
def test_ends(drive: Drive, depth: int) -> None:
    driver = drive(depth=depth)
    driver.add("eos", [1], max_tokens=9, eos_token_ids=(4,), stop_token_ids=(4, 9))
    driver.add("stop", [1], max_tokens=9, stop_token_ids=(3,))
    driver.add("ignored", [1], max_tokens=4, eos_token_ids=(3,), ignore_eos=True)
    driver.add("length", [1], max_tokens=2)
    driver.add("model_len", list(range(45)), max_tokens=None)
    driver.run()
    last = {key[0]: outputs[-1] for key, outputs in driver.outputs.items()}
    assert driver.tokens["eos", 0] == [2, 3, 4]  # the stop token is among them
    assert (last["eos"].finish_reason, last["eos"].stop_reason) == ("stop", None)
    assert driver.tokens["stop", 0] == [2, 3]
    assert (last["stop"].finish_reason, last["stop"].stop_reason) == ("stop", 3)
    assert (driver.tokens["ignored", 0], last["ignored"].finish_reason) == ([2, 3, 4, 5], "length")
    assert driver.tokens["length", 0] == [2, 3]
    assert (len(driver.tokens["model_len", 0]), last["model_len"].finish_reason) == (3, "length")


def test_min_tokens_bans_the_stop_until_then(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1], max_tokens=9, min_tokens=3, stop_token_ids=(2,))
    tokens = driver.run()["a", 0]
    assert 2 not in tokens[:3]
    assert len(tokens) >= 3


def test_bad_words_are_not_completed(drive: Drive) -> None:
    driver = drive()
    driver.add("one", [1], max_tokens=3, bad_words_token_ids=((3,),))
    driver.add("two", [1], max_tokens=4, bad_words_token_ids=((3, 4),))
    driver.run()
    assert 3 not in driver.tokens["one", 0]
    assert driver.tokens["two", 0][:2] == [2, 3]
    assert driver.tokens["two", 0][2] != 4


@both_loops
def test_a_second_request_finds_the_firsts_prefix(drive: Drive, depth: int) -> None:
    driver = drive(depth=depth)
    driver.add("a", list(range(12)))
    driver.run()
    driver.add("b", list(range(12)))
    driver.add("salted", list(range(12)), cache_salt="x")
    driver.run()
    # 12 tokens are 3 blocks, but the last token must be computed
    assert [driver.outputs[name, 0][0].num_cached_tokens for name in ("a", "b", "salted")] == [0, 8, 0]
    assert driver.tokens["a", 0] == driver.tokens["b", 0]
    stats = driver.core.stats()
    assert (stats.prefix_hit_tokens, stats.prompt_tokens, stats.generated_tokens) == (8, 36, 24)


def test_answers_are_found_as_prefixes_too(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1, 2, 3], max_tokens=10)
    answer = driver.run()["a", 0]
    driver.add("b", [1, 2, 3, *answer, 0], max_tokens=1)
    driver.run()
    assert driver.outputs["b", 0][0].num_cached_tokens == 12  # the last of 13 tokens was never stored


@both_loops
def test_n_sequences_compute_the_prompt_once(drive: Drive, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    driver.add("a", list(range(10)), n=3, temperature=1.0, seed=5, max_tokens=6)
    for _ in range(2):
        driver.step()
    assert driver.core.stats().num_used_blocks <= 3 + 3
    driver.run()
    assert len({tuple(tokens) for tokens in driver.tokens.values()}) == 3
    # 2 steps for the prompt, the second of which draws 3 tokens, 5 for the rest
    assert driver.executor.num_submitted == 7


@both_loops
def test_prompt_logprobs_over_chunks_equal_those_in_one(drive: Drive, depth: int) -> None:
    results = []
    for budget in (48, 8):
        driver = drive(depth=depth, budget=budget)
        driver.add("warm", list(range(20)))
        driver.run()
        driver.add("a", list(range(20)), prompt_logprobs=2, logprobs=1, n=2, temperature=1.0, seed=1)
        driver.run()
        outputs = driver.outputs["a", 0]
        assert outputs[0].num_cached_tokens == 0
        prompt = outputs[0].prompt_logprobs
        assert prompt[0] is None
        assert [entry.token_ids[0] for entry in prompt[1:]] == list(range(1, 20))
        assert all(len(entry.token_ids) == 3 for entry in prompt[1:])
        assert all(output.prompt_logprobs is None for output in outputs[1:])
        assert [entry.token_ids[0] for output in outputs for entry in output.logprobs] == driver.tokens["a", 0]
        results.append((prompt, [output.logprobs for output in outputs], driver.tokens))
    assert results[0] == results[1]


def test_logprobs_of_the_whole_vocabulary(drive: Drive) -> None:
    driver = drive(vocab_size=11)
    driver.add("a", [1, 2], max_tokens=1, logprobs=-1, prompt_logprobs=-1)
    driver.run()
    output = driver.outputs["a", 0][0]
    assert sorted(output.logprobs[0].token_ids[1:]) == list(range(11))
    assert np.exp(output.logprobs[0].logprobs[1:]).sum() == pytest.approx(1.0, abs=1e-5)
    assert len(output.prompt_logprobs[1].token_ids) == 12


@both_loops
@pytest.mark.parametrize("num_steps", range(5))
def test_abort_at_any_moment(drive: Drive, depth: int, num_steps: int) -> None:
    """Waiting, mid-prompt, in flight, decoding; the other request does not notice."""
    driver = drive(depth=depth, budget=8)
    driver.add("a", list(range(20)), n=2)
    driver.add("b", [30])
    for _ in range(num_steps):
        driver.step()
    driver.abort("a")
    assert [driver.finish_reason("a", index) for index in (0, 1)] == ["abort", "abort"]
    assert driver.core.abort("a") == []
    driver.run()
    assert driver.tokens["b", 0] == list(range(31, 39))


@both_loops
def test_aborting_the_sequence_that_computes_the_prompt(drive: Drive, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    driver.add("a", list(range(20)), n=3, temperature=1.0, seed=3)
    driver.step()
    driver.abort("a", 0)
    driver.run()
    whole = drive(depth=depth)
    whole.add("a", list(range(20)), n=3, temperature=1.0, seed=3)
    whole.run()
    assert driver.finish_reason("a", 0) == "abort"
    assert [driver.tokens["a", index] for index in (1, 2)] == [whole.tokens["a", index] for index in (1, 2)]


def test_abort_of_one_sequence_leaves_the_others(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1, 2], n=3)
    driver.step()
    driver.step()
    driver.abort("a", 1)
    driver.run()
    assert [driver.finish_reason("a", index) for index in range(3)] == ["length", "abort", "length"]


@both_loops
def test_preempted_sequences_lose_nothing(drive: Drive, depth: int) -> None:
    driver = drive(11, depth=depth, enable_prefix_caching=False)
    for name, start in (("a", 0), ("b", 10), ("c", 20)):
        driver.add(name, list(range(start, start + 8)), max_tokens=12)
    driver.run()
    assert driver.core.stats().preemptions > 0
    for name, start in (("a", 8), ("b", 18), ("c", 28)):
        assert driver.tokens[name, 0] == list(range(start, start + 12))


@both_loops
def test_a_preempted_leader_starts_over_with_its_forks(drive: Drive, depth: int) -> None:
    driver = drive(7, depth=depth, budget=4, max_num_seqs=4, enable_prefix_caching=False)
    driver.add("first", [1, 2, 3], max_tokens=24)
    driver.add("late", list(range(20)), n=3, max_tokens=4, temperature=1.0, seed=1)
    seen = set()
    while driver.core.has_unfinished():
        driver.step()
        request = driver.core._requests.get("late")
        if request is not None and request.unforked:
            seen.add((request.sequences[0].status.value, driver.core.stats().preemptions > 0))
    alone = drive(depth=1)
    alone.add("late", list(range(20)), n=3, max_tokens=4, temperature=1.0, seed=1)
    alone.run()
    assert ("waiting", True) in seen, "the scenario no longer preempts the leader before it forks"
    assert [driver.tokens["late", index] for index in range(3)] == [alone.tokens["late", index] for index in range(3)]
    assert driver.tokens["first", 0] == list(range(4, 28))


def test_a_draw_with_every_token_forbidden_is_an_error_of_the_request(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1], allowed_token_ids=(5,), bad_words_token_ids=((5,),))
    driver.add("b", [1], max_tokens=1)
    driver.run()
    assert (driver.finish_reason("a"), driver.finish_reason("b")) == ("error", "length")
    assert "no token is left" in driver.outputs["a", 0][-1].error.what


def test_priorities(drive: Drive) -> None:
    def order(policy: str) -> list[str]:
        driver = drive(max_num_seqs=1, scheduling_policy=policy)
        for name, priority, arrival_time_s in (("late", 0, 2.0), ("low", 5, 0.0), ("early", 0, 1.0)):
            driver.add(name, [1], max_tokens=1, priority=priority, arrival_time_s=arrival_time_s)
        driver.run()
        return [key[0] for key in driver.tokens]

    assert order("fcfs") == ["late", "low", "early"]
    assert order("priority") == ["early", "late", "low"]


@both_loops
def test_resumed_requests_go_on_where_they_were(drive: Drive, depth: int) -> None:
    options = {"n": 3, "temperature": 1.0, "seed": 9, "max_tokens": 10, "presence_penalty": 0.5, "logprobs": 0}
    whole = drive(depth=depth)
    whole.add("a", [1, 2, 3, 4, 5], **options)
    whole.run()
    emitted = (tuple(whole.tokens["a", 0][:4]), None, ())
    driver = drive(depth=depth)
    driver.add("a", [1, 2, 3, 4, 5], resume_token_ids=emitted, **options)
    driver.run()
    assert driver.tokens == {("a", 0): whole.tokens["a", 0][4:], ("a", 2): whole.tokens["a", 2]}


def test_seeds_are_derived_from_the_engines(drive: Drive) -> None:
    def tokens(**options: Any) -> Any:
        driver = drive(**options)
        for name in "ab":
            driver.add(name, [1, 2], temperature=2.0)
        return driver.run()

    assert tokens(seed=1) == tokens(seed=1)
    assert tokens(seed=1) != tokens(seed=2)
    assert tokens(seed=1)["a", 0] != tokens(seed=1)["b", 0]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [50]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": list(range(48))}, "prompt"),
        ({"allowed_token_ids": (50,)}, "allowed_token_ids"),
        ({"logit_bias": {50: 1.0}}, "logit_bias"),
        ({"stop_token_ids": (77,)}, "stop_token_ids"),
        ({"bad_words_token_ids": ((1, 60),)}, "bad_words"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"n": 9}, "n"),
        ({"prompt": list(range(20)), "max_tokens": 25}, "max_tokens"),
        ({"resume_token_ids": ((1,), (2,))}, "resume_token_ids"),
        ({"resume_token_ids": (None,)}, "resume_token_ids"),
        ({"resume_token_ids": ((1, 2, 3),), "max_tokens": 3}, "resume_token_ids"),
    ],
)
def test_wrong_requests_are_refused_by_field(drive: Drive, options: dict[str, Any], param: str) -> None:
    driver = drive(10, max_logprobs=5)
    with pytest.raises(RequestError) as caught:
        driver.add("a", **{"prompt": [1], **options})
    assert caught.value.param == param
    assert not driver.core.has_unfinished()


def test_an_id_is_taken_until_its_request_is_finished(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1], max_tokens=1)
    with pytest.raises(RequestError, match="taken"):
        driver.add("a", [1])
    assert driver.run()["a", 0] == [2]
    driver.outputs.clear()
    driver.add("a", [1], max_tokens=1)
    assert driver.run()["a", 0] == [2, 2]


def test_the_largest_request_that_fits_runs(drive: Drive) -> None:
    driver = drive(10)
    driver.add("a", list(range(20)), max_tokens=21)  # 40 stored tokens, since the last is not stored
    driver.run()
    assert len(driver.tokens["a", 0]) == 21


@both_loops
def test_a_sliding_model_needs_room_for_its_window_only(drive: Drive, depth: int) -> None:
    driver = drive(4, depth=depth, windows={"sliding": 5}, budget=8)
    for name in ("a", "b"):
        driver.add(name, list(range(40)), max_tokens=6)
    driver.run()
    assert driver.tokens["a", 0] == driver.tokens["b", 0] == list(range(40, 46))


def test_long_prompts_take_turns_under_a_threshold(drive: Drive) -> None:
    def first_token_step(threshold: int) -> int:
        driver = drive(budget=16, long_prefill_token_threshold=threshold, depth=1)
        driver.add("long", list(range(40)), max_tokens=1)
        driver.add("short", [1, 2], max_tokens=1)
        return next(step for step in range(20) if any(o.request_id == "short" for o in driver.step()))

    assert first_token_step(0) == 2
    assert first_token_step(8) == 0


def test_contradicting_limits_are_refused() -> None:
    model = fake_model()
    executor, plan = fake_executor(model, 4)
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        EngineCore(executor, model, plan, block_size=4, max_model_len=8, max_num_batched_tokens=2, max_num_seqs=3)


def test_stats_while_running(drive: Drive) -> None:
    driver = drive(20, depth=1)
    driver.add("a", list(range(6)))
    driver.step()
    stats = driver.core.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks, stats.num_blocks) == (1, 0, 2, 20)
    assert stats.kv_usage == pytest.approx(0.1)
    assert stats.kv_waste == pytest.approx(2 / 8)
    assert stats.num_cached_blocks == 1


def test_close_closes_the_executor(drive: Drive) -> None:
    driver = drive()
    driver.add("a", [1])
    driver.core.step()
    driver.core.close()
    with pytest.raises(BackendError):
        driver.executor.submit(None)
