"""A device that fails at any call, in every way: nothing is lost, nothing hangs, answers are a healthy one's."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.engine import device_life
from quire.engine.device_life import DeviceLife
from quire.errors import BackendError, ConfigError
from quire.testing import FakeFaults, fake_executor
from tests.engine.conftest import WAVE


def driver_with(drive: Any, faults: FakeFaults, *, remakes: bool = True, depth: int = 2, **options: Any) -> Any:
    """A driver of the fake device whose executors share the faults; with `remakes` a broken one is replaced."""
    driver: Any = None

    def make() -> Any:
        faults.meet("create")
        old = driver.executor
        executor, _ = fake_executor(
            old.plan.model,
            64,
            max_model_len=old.plan.max_model_len,
            max_num_batched_tokens=old.plan.max_num_batched_tokens,
            max_num_seqs=old.plan.max_num_seqs,
            async_depth=old.async_depth,
        )
        executor.faults = faults
        driver.executor = executor
        return executor

    driver = drive(depth=depth, budget=8, make_executor=make if remakes else None, **options)
    driver.executor.faults = faults
    return driver


def run_wave(driver: Any) -> dict[Any, list[int]]:
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    return dict(driver.run())


@pytest.fixture
def expected(drive: Any, depth: int) -> dict[Any, list[int]]:
    return run_wave(drive(depth=depth, budget=8))


depths = pytest.mark.parametrize("depth", [1, 2])


@depths
@pytest.mark.parametrize("call", ["submit", "result"])
@pytest.mark.parametrize("number", range(8))
def test_a_broken_executor_costs_nobody_a_token(
    drive: Any, depth: int, call: Any, number: int, expected: dict[Any, list[int]]
) -> None:
    driver = driver_with(drive, FakeFaults({(call, number): "fatal"}), depth=depth)
    first = driver.executor
    assert run_wave(driver) == expected
    assert driver.executor is not first
    assert first.closed.is_set()
    assert driver.core.stats().num_replaced_executors == 1


@depths
@pytest.mark.parametrize("number", range(0, 8, 3))
def test_a_step_that_never_comes_is_given_up(
    drive: Any, depth: int, number: int, expected: dict[Any, list[int]]
) -> None:
    driver = driver_with(drive, FakeFaults({("result", number): "hang"}), depth=depth, step_timeout_s=0.05)
    assert run_wave(driver) == expected
    assert driver.core.stats().num_replaced_executors == 1


@depths
@pytest.mark.parametrize("number", range(8))
def test_out_of_memory_makes_steps_smaller(
    drive: Any, depth: int, number: int, expected: dict[Any, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    driver = driver_with(drive, FakeFaults({("result", number): "out_of_memory"}), depth=depth)
    with caplog.at_level(logging.WARNING, "quire"):
        found = run_wave(driver)
    assert found == expected
    assert driver.core.scheduler.limits.max_num_batched_tokens <= 4
    assert "from now on a step has at most" in caplog.text


@depths
def test_a_memory_error_of_any_plugin_is_out_of_memory(drive: Any, depth: int, expected: dict[Any, list[int]]) -> None:
    """Also of one that raises it out of `submit`, and knows no kinds."""
    driver = driver_with(drive, FakeFaults(), depth=depth)
    submit, calls = driver.executor.submit, iter(range(10**9))

    def submit_or_fail(batch: Any) -> Any:
        if next(calls) == 3:
            raise MemoryError("no room")
        return submit(batch)

    driver.core._device.executor = Delegate(driver.executor, submit_or_fail)
    assert run_wave(driver) == expected
    assert driver.core.scheduler.limits.max_num_batched_tokens < 8


class Delegate:
    """An executor with another `submit`."""

    def __init__(self, executor: Any, submit: Any) -> None:
        self._executor, self.submit = executor, submit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


@depths
def test_out_of_memory_again_is_somebodys_fault(drive: Any, depth: int, expected: dict[Any, list[int]]) -> None:
    faults = FakeFaults({("result", number): "out_of_memory" for number in (2, 3)})
    driver = driver_with(drive, faults, depth=depth)
    found = run_wave(driver)
    ended = {key for key in expected if driver.finish_reason(*key) == "error"}
    assert {key: tokens for key, tokens in found.items() if key not in ended} == {
        key: tokens for key, tokens in expected.items() if key not in ended
    }


@depths
def test_the_sequence_that_an_error_names_ends_alone(drive: Any, depth: int, expected: dict[Any, list[int]]) -> None:
    driver = driver_with(drive, FakeFaults({("result", 5): "sequence"}), depth=depth)
    found = run_wave(driver)
    ended = [key for key in expected if driver.finish_reason(*key) == "error"]
    assert len(ended) == 1
    for key in expected.keys() - set(ended):
        assert found[key] == expected[key]


@depths
@pytest.mark.parametrize("kind", ["fatal", "exception", "step"])
def test_a_device_that_always_fails_ends_what_waits_and_says_it_is_gone(drive: Any, depth: int, kind: Any) -> None:
    driver = driver_with(drive, FakeFaults({("result", -1): kind}), depth=depth)
    for round_ in range(40):
        if driver.core.broken is not None:
            break
        for name, prompt, options in WAVE:
            driver.add(f"{name}{round_}", prompt, **options)
        driver.run()
    if kind == "fatal":
        assert driver.core.broken is not None
        with pytest.raises(BackendError, match="so did the executors made after it"):
            driver.add("late", [1])
    assert not driver.core.has_unfinished()
    assert all(outputs[-1].finish_reason == "error" for outputs in driver.outputs.values())


@pytest.mark.parametrize("call", ["create", "load", "allocate_kv", "warmup"])
def test_an_executor_that_cannot_be_made_again_ends_everything_by_name(call: str) -> None:
    options = {"faults": f"submit@2=fatal,{call}@1=exception"}
    with LLM("demo", device="fake", load_format="dummy", device_options=options, max_model_len=64) as llm:
        for prompts in (["a", "b"], ["c"]):
            with pytest.raises(BackendError, match=f"an injected bug in {call}"):
                llm.generate(prompts, SamplingParams(max_tokens=9, ignore_eos=True))
        assert not llm.engine.has_unfinished()


@pytest.mark.parametrize("call", ["create", "load", "allocate_kv", "warmup"])
def test_an_executor_that_cannot_be_made_at_all_is_named(call: str) -> None:
    with pytest.raises(BackendError, match=rf"fake.*\n.*an injected bug in {call}"):
        LLM("demo", device="fake", load_format="dummy", device_options={"faults": f"{call}@0=exception"})


def test_a_broken_device_behind_llm_costs_no_token() -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.8, seed=2)

    def tokens(faults: str) -> list[list[int]]:
        options = {"faults": faults} if faults else {}
        with LLM("demo", device="fake", load_format="dummy", device_options=options, step_timeout=0.1) as llm:
            outputs = llm.generate(["a", "bc", "def"], params)
            assert llm.generate("x", params)[0].error is None
            return [output.outputs[0].token_ids for output in outputs]

    assert tokens("submit@4=fatal,result@9=hang,result@12=exception,result@15=out_of_memory") == tokens("")


@pytest.mark.parametrize("text", ["submit", "submit@x=step", "jump@1=step", "submit@1=maybe"])
def test_a_fault_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"CALL@NUMBER=KIND"):
        FakeFaults.parse(text)


def test_without_another_executor_a_fatal_error_ends_everything(drive: Any) -> None:
    driver = driver_with(drive, FakeFaults({("submit", 2): "fatal"}), remakes=False)
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    driver.run()
    assert all(outputs[-1].finish_reason == "error" for outputs in driver.outputs.values())
    with pytest.raises(BackendError, match="nothing makes another executor"):
        driver.add("late", [1])


def test_closing_may_fail_or_hang(
    drive: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_life, "CLOSING_S", 0.05)
    executor = driver_with(drive, FakeFaults({("close", 0): "exception"})).executor
    with caplog.at_level(logging.WARNING, "quire"):
        DeviceLife(executor).close()
    assert "closing the executor failed: RuntimeError" in caplog.text

    class Hanging:
        def wait(self, timeout_s: float) -> bool:
            return False

        def close(self) -> None:
            import threading

            threading.Event().wait(5)

    life = DeviceLife(Hanging(), step_timeout_s=0.01)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"step 7 did not come within 0\.01 s"):
        life.result_of(Hanging(), 7)  # type: ignore[arg-type]
    life.close()
    assert "does not close" in caplog.text


def test_an_interrupted_replacement_is_made_up_for(drive: Any) -> None:
    driver = driver_with(drive, FakeFaults({("submit", 2): "fatal"}))
    make, calls = driver.core._device._make, iter(range(10**9))

    def interrupted() -> Any:
        if next(calls) == 0:
            raise KeyboardInterrupt
        return make()

    driver.core._device._make = interrupted
    for name, prompt, options in WAVE:
        driver.add(name, prompt, **options)
    with pytest.raises(KeyboardInterrupt):
        driver.run()
    driver.core.abort("a")
    driver.add("late", [5], max_tokens=3)
    driver.run()
    assert driver.tokens["late", 0] == [6, 7, 8]
    assert not driver.core.has_unfinished()


@pytest.mark.parametrize("sequences", [("x",), (99,), (-1,), (0, 0, 1)])
def test_an_error_that_names_nonsense_ends_no_engine(drive: Any, sequences: tuple[Any, ...]) -> None:
    driver = driver_with(drive, FakeFaults())
    error = BackendError("a row is bad", kind="sequence", sequences=sequences)
    submit, calls = driver.executor.submit, iter(range(10**9))

    def submit_or_fail(batch: Any) -> Any:
        if next(calls) == 2:
            raise error
        return submit(batch)

    driver.core._device.executor = Delegate(driver.executor, submit_or_fail)
    run_wave(driver)
    assert not driver.core.has_unfinished()
    driver.add("late", [5], max_tokens=3)
    driver.run()
    assert driver.tokens["late", 0] == [6, 7, 8]
