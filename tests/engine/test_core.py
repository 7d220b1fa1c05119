from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.device.batch import StepResult
from quire.engine.core import EngineCore
from quire.engine.step_builder import StepBuilder
from quire.errors import BackendError, ConfigError, InternalError, RequestError
from quire.sampling.batch import NOT_FINITE
from quire.scheduler.scheduler import Scheduler
from quire.scheduler.sequence import Sequence
from quire.testing import FakeFaults, fake_executor, fake_model
from quire.testing.fake_device import FakeStep

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


def alone(drive: Drive, *requests: tuple[str, list[int], dict[str, Any]]) -> dict[tuple[str, int], list[int]]:
    """The tokens of an engine on which nothing fails."""
    driver = drive(depth=1, budget=8)
    for name, prompt, options in requests:
        driver.add(name, prompt, **options)
    return driver.run()


WAVE: tuple[tuple[str, list[int], dict[str, Any]], ...] = (
    ("a", [1, 2], {"n": 2, "max_tokens": 9, "temperature": 1.0, "seed": 3}),
    ("long", list(range(30)), {"n": 2, "prompt_logprobs": 1}),
    ("c", [7, 8, 9], {"max_tokens": 12, "logprobs": 2, "frequency_penalty": 0.5}),
)


@both_loops
@pytest.mark.parametrize("where", ["submit", "result"])
@pytest.mark.parametrize("number", range(6))
def test_a_step_that_fails_once_costs_nobody_a_token(drive: Drive, depth: int, where: str, number: int) -> None:
    driver = drive(depth=depth, budget=8)
    driver.executor.faults = FakeFaults({(where, number): "step"})
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.run()
    expected = alone(drive, *WAVE)
    assert driver.core.stats().failed_steps >= 1
    ended = {key for key in expected if driver.finish_reason(*key) == "error"}
    assert len({name for name, _ in ended}) <= 1, "only a request that was alone in the step"
    for key in expected.keys() - ended:
        assert driver.tokens[key] == expected[key]


def fail_steps_with(driver: Any, monkeypatch: Any, is_bad: Callable[[Any], bool], error: Exception) -> None:
    """Steps fail, when they are submitted, in which the batch `is_bad`."""
    submit = driver.executor.submit

    def submit_or_fail(batch: Any) -> Any:
        if is_bad(batch):
            raise error
        return submit(batch)

    monkeypatch.setattr(type(driver.executor), "submit", lambda self, batch: submit_or_fail(batch))


@both_loops
@pytest.mark.parametrize("error", [BackendError("it burns"), ValueError("of any kind"), RecursionError()])
def test_who_fails_alone_ends_alone(
    drive: Drive, monkeypatch: Any, depth: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that fails every step with token 49 in it, as one that raises for a row of NaN."""
    driver = drive(depth=depth, budget=8)
    fail_steps_with(driver, monkeypatch, lambda batch: bool((batch.token_ids == 49).any()), error)
    driver.add("bad", [49, 3, 49], max_tokens=4)
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.add("bad too", [49] * 11, n=2)
    driver.run()
    expected = alone(drive, *WAVE)
    assert {key: driver.tokens[key] for key in expected} == expected
    assert [driver.finish_reason(*key) for key in (("bad", 0), ("bad too", 0), ("bad too", 1))] == ["error"] * 3
    failure = driver.outputs["bad", 0][-1].error
    assert (failure.kind, str(error) in failure.what + failure.because) == ("BackendError", True)
    assert "request bad: its step failed" in caplog.text
    driver.add("after", [1, 2])
    driver.run()
    assert driver.finish_reason("after") == "length"


@both_loops
def test_a_device_that_fails_always_is_given_up(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=64, max_num_seqs=32, num_blocks=200)
    fail_steps_with(driver, monkeypatch, lambda batch: True, BackendError("it burns"))
    for number in range(30):
        driver.add(f"r{number}", [number, 1])
    driver.run()
    assert all(driver.finish_reason(f"r{number}") == "error" for number in range(30))
    assert driver.core.stats().failed_steps < 15, "not one step for each request"
    monkeypatch.undo()
    driver.add("after", [1, 2])
    driver.run()
    assert driver.finish_reason("after") == "length"


@both_loops
def test_a_row_of_broken_logits_ends_its_sequence_only(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    execute = type(driver.executor)._execute

    def execute_broken(self: Any, batch: Any) -> StepResult:
        result = execute(self, batch)
        if batch.sampling is not None:
            last = batch.token_ids[batch.logits_indices[batch.sampling.rows]]
            result.tokens[last == 49] = NOT_FINITE
        return result

    monkeypatch.setattr(type(driver.executor), "_execute", execute_broken)
    driver.add("bad", [3, 49], n=2)
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.run()
    expected = alone(drive, *WAVE)
    assert {key: driver.tokens[key] for key in expected} == expected
    assert [driver.finish_reason("bad", index) for index in (0, 1)] == ["error", "error"]
    assert "NaN" in driver.outputs["bad", 0][-1].error.what
    assert driver.core.stats().failed_steps == 0


@both_loops
def test_broken_prompt_logprobs_end_their_request(drive: Drive, monkeypatch: Any, depth: int) -> None:
    driver = drive(depth=depth, budget=8)
    execute = type(driver.executor)._execute

    def execute_broken(self: Any, batch: Any) -> StepResult:
        result = execute(self, batch)
        if result.prompt_logprobs is not None:
            result.prompt_logprobs.logprobs[batch.sampling.prompt_targets == 49, 0] = np.nan
        return result

    monkeypatch.setattr(type(driver.executor), "_execute", execute_broken)
    driver.add("bad", [3, 49, 5], prompt_logprobs=0)
    driver.add("good", [3, 4, 5], prompt_logprobs=0)
    driver.run()
    assert (driver.finish_reason("bad"), driver.finish_reason("good")) == ("error", "length")


INSIDE = (
    "core._builder.build",
    "core._device.executor.submit",
    "core.scheduler.schedule",
    "core._logprobs_of",
    "core.scheduler.offer_to_cache",
    "core._collect_prompt_logprobs",
    "core.scheduler.finish",
)


@both_loops
@pytest.mark.parametrize(
    ("place", "after"),
    [
        (place, after)
        for place in INSIDE
        for after in (False, True)
        if not (after and "submit" in place)  # what the executor has and nobody knows of: test_graph_executor
    ],
)
def test_an_interruption_anywhere_loses_what_ran_and_nothing_else(
    drive: Drive, depth: int, place: str, after: bool
) -> None:
    """As Ctrl-C does where nobody holds it back: before the call, or when it has done its work and nobody knows."""
    expected = alone(drive, *WAVE)
    for number in range(5):
        driver = drive(depth=depth, budget=8)
        for name, prompt, options in WAVE:
            driver.add(name, prompt, **options)
        restore = interrupt(driver, place, number, after=after)
        with pytest.raises(KeyboardInterrupt):
            driver.run()
        restore()
        lost = driver.core.abort("a")
        assert {output.finish_reason for output in lost} <= {"abort", "error", "length"}  # it may just have finished
        driver.outputs.clear()
        driver.tokens.clear()
        for name, prompt, options in WAVE:
            driver.core.abort(name)
            driver.add(name, prompt, **options)
        assert driver.run() == expected


def interrupt(driver: Any, place: str, number: int, *, after: bool) -> Callable[[], None]:
    """Raises KeyboardInterrupt in call `number` of a method; returns what takes that back."""
    *path, name = place.split(".")
    owner = driver
    for part in path:
        owner = getattr(owner, part)
    if "submit" in place:
        owner = driver.core._device.executor = Delegate(driver.executor)
    method = getattr(owner, name)
    calls = iter(range(10**9))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        is_it = next(calls) == number
        if is_it and not after:
            raise KeyboardInterrupt
        result = method(*arguments, **options)
        if is_it:
            raise KeyboardInterrupt
        return result

    object.__setattr__(owner, name, interrupted)
    return lambda: object.__setattr__(owner, name, method)


class Delegate:
    """An executor whose methods can be replaced."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def test_a_result_of_the_wrong_length_is_the_executors_failure(drive: Drive, monkeypatch: Any) -> None:
    driver = drive(depth=1)

    class Broken:
        def result(self) -> StepResult:
            return StepResult(np.zeros((3, 1), np.int32), np.ones(3, np.int32))

    driver.add("a", [1])
    monkeypatch.setattr(type(driver.executor), "submit", lambda self, batch: Broken())
    driver.take(driver.core.step())
    assert driver.finish_reason("a") == "error"


@both_loops
def test_blocks_of_broken_rows_are_not_found_again(drive: Drive, depth: int) -> None:
    """A fault of a moment must not stay in the prefix cache, where all who begin alike would meet it."""
    driver = drive(depth=depth)
    driver.executor.broken_token = 12
    driver.add("bad", list(range(13)))
    driver.add("good", list(range(10)), max_tokens=2)
    driver.run()
    assert (driver.finish_reason("bad"), driver.finish_reason("good")) == ("error", "length")
    driver.executor.broken_token = None
    driver.add("again", list(range(13)))
    driver.run()
    assert driver.outputs["again", 0][0].num_cached_tokens < 12
    assert driver.tokens["again", 0][0] == 13


def test_a_bug_in_an_abort_does_not_reach_the_caller(drive: Drive, monkeypatch: Any) -> None:
    driver = drive()
    driver.add("a", [1])
    driver.add("b", [2])
    driver.step()

    def broken(seq: Any) -> None:
        raise ValueError("books")

    monkeypatch.setattr(driver.core.scheduler, "finish", broken)
    assert [output.finish_reason for output in driver.core.abort("a")] == ["error"]
    assert [(output.request_id, output.finish_reason) for output in driver.core.step()] == [("b", "error")]
    driver.add("c", [5], max_tokens=2)
    assert driver.run()["c", 0] == [6, 7]


def test_what_making_one_request_raises_is_its_own(drive: Drive, monkeypatch: Any) -> None:
    driver = drive()
    driver.add("a", [1], max_tokens=3)
    with monkeypatch.context() as patch:
        patch.setattr("quire.engine.core.make_request", lambda *_: 1 // 0)
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            driver.add("b", [1])
    driver.add("b", [2], max_tokens=1)
    assert driver.run() == {("a", 0): [2, 3, 4], ("b", 0): [3]}


@both_loops
@pytest.mark.parametrize(
    "changes", [{"prompt_logprobs": None}, {"tokens": [[1.5]]}, {"tokens": np.zeros((1, 1))}, {"tokens": None}]
)
def test_a_result_that_is_not_what_was_asked_for_ends_who_asked(
    drive: Drive, monkeypatch: Any, depth: int, changes: dict[str, Any]
) -> None:
    driver = drive(depth=depth)
    result = FakeStep.result

    def poor(step: FakeStep) -> StepResult:
        found = result(step)
        asked = step.batch.sampling is not None and step.batch.sampling.prompt_rows is not None
        return replace(found, **changes) if asked else found

    monkeypatch.setattr(FakeStep, "result", poor)
    driver.add("good", [1], max_tokens=6)
    driver.add("poor", [5, 6, 7], prompt_logprobs=1, max_tokens=3)
    assert driver.run()["good", 0] == [2, 3, 4, 5, 6, 7]
    assert driver.finish_reason("poor") == "error"
    assert "contract" in driver.outputs["poor", 0][-1].error.because


@both_loops
@pytest.mark.parametrize(
    "place",
    ["Scheduler.schedule", "Scheduler.offer_to_cache", "StepBuilder.build", "Scheduler.acquit", "Scheduler.finish"],
)
@pytest.mark.parametrize("always", [True, False])
def test_what_is_raised_between_the_devices_calls_ends_whose_it_is(
    drive: Drive, monkeypatch: Any, depth: int, place: str, always: bool
) -> None:
    """A bug that one request meets, whenever it is touched, or once: the others' tokens are as if it was not there."""
    expected = alone(drive, *WAVE)
    driver = drive(depth=depth, budget=8)
    owner_name, name = place.split(".")
    owner = {"Scheduler": Scheduler, "StepBuilder": StepBuilder}[owner_name]
    method, calls = getattr(owner, name), iter(range(10**9))

    def raising(self: Any, *arguments: Any) -> Any:
        touched = arguments[0] if arguments else self.suspects[:1] or [*self.running, *self.waiting]
        touched = [touched] if isinstance(touched, Sequence) else getattr(touched, "sequences", touched)
        if any(seq.request.request_id == "evil" for seq in touched) and (always or next(calls) == 2):
            raise ValueError("a bug")
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, raising)
    for number, (request_id, prompt, options) in enumerate(WAVE):
        driver.add(request_id, prompt, **options)
        if number == 0:
            driver.add("evil", [9, 9, 9], max_tokens=4)
    tokens = driver.run()
    assert {key: found for key, found in tokens.items() if key[0] != "evil"} == expected
    evil = driver.outputs["evil", 0][-1]
    if always:
        assert (evil.finish_reason, evil.error is not None) == ("error", True)
    elif place not in ("Scheduler.acquit", "Scheduler.finish"):
        assert tokens["evil", 0] == [10, 11, 12, 13]


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
