"""Whatever is added, aborted, preempted, chunked, shared or overlapped: each sequence is as if it had run alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import RequestError
from quire.testing import FakeFaults

Request = dict[str, Any]

PREFIXES = ([7, 3, 9, 1, 4, 4, 8, 2, 6, 5, 0, 3, 7, 1, 9, 9], [7, 3, 9, 1, 4, 2, 2, 2, 6, 5, 0, 1], [30, 31])

prompts = st.builds(
    lambda prefix, length, tail: prefix[:length] + tail,
    st.sampled_from(PREFIXES), st.integers(0, 16), st.lists(st.integers(0, 49), min_size=1, max_size=5),
)  # fmt: skip

plain_requests = st.fixed_dictionaries(
    {
        "prompt": prompts,
        "max_tokens": st.integers(1, 14) | st.just(14),
        "seed": st.integers(0, 3),
        "priority": st.integers(0, 2),
        "n": st.sampled_from([1, 1, 2, 3]),
    },
    optional={
        "temperature": st.sampled_from([0.0, 0.8, 1.5]),
        "top_k": st.just(5),
        "logprobs": st.just(1),
        "stop_token_ids": st.just((13, 14, 35)),
        "eos_token_ids": st.just((10, 33)),
        "min_tokens": st.just(1),
    },
)

features = st.sampled_from(
    [{}] * 12
    + [
        {"presence_penalty": 1.5},
        {"repetition_penalty": 1.3},
        {"bad_words_token_ids": ((11,),)},
        {"bad_words_token_ids": ((5, 6), (32, 33, 34))},
        {"prompt_logprobs": 0},
        {"cache_salt": "salt"},
    ]
)

requests = st.builds(lambda request, feature: {**request, **feature}, plain_requests, features)

engines = st.fixed_dictionaries(
    {
        "num_slots": st.integers(32, 60),
        "windows": st.sampled_from(
            [{"full": 0}, {"full": 0, "sliding": 6}, {"sliding": 5}, {"full": 0, "a": 4, "b": 9}]
        ),
        "shared_pool": st.booleans(),
        "block_size": st.sampled_from([2, 4]),
        "budget": st.integers(4, 16),
        "max_num_seqs": st.sampled_from([3, 4, 4]),
        "depth": st.integers(1, 2),
        "enable_prefix_caching": st.booleans(),
        "scheduling_policy": st.sampled_from(["fcfs", "priority"]),
        "long_prefill_token_threshold": st.sampled_from([0, 3]),
    }
)

operations = st.lists(
    st.one_of(
        requests,
        requests,
        st.integers(1, 4),  # so many steps
        st.tuples(st.integers(0, 4), st.sampled_from([None, 0, 1])),  # abort
    ),
    min_size=5,
    max_size=14,
)


def _make(drive: Callable[..., Any], engine: dict[str, Any]) -> Any:
    """A driver whose pools have room for 32 to 60 tokens per full group, so that there is preemption."""
    options = dict(engine)
    num_blocks = options.pop("num_slots") // options["block_size"]
    return drive(num_blocks * (len(options["windows"]) if options["shared_pool"] else 1), **options)


@cache
def _alone(drive: Callable[..., Any], key: str) -> tuple[Any, ...]:
    """Tokens, end and logprobs of each sequence of a request that has a large engine to itself."""
    driver = drive(200, depth=1, budget=48, max_model_len=48, enable_prefix_caching=False)
    _add(driver, "alone", eval(key))
    driver.run()
    return tuple(_summary(driver, "alone", index) for index in range(len(driver.tokens)))


def _try_add(driver: Any, request_id: str, request: Request) -> bool:
    """False when the cache is too small for the request, which is the only reason here to refuse one."""
    try:
        _add(driver, request_id, request)
    except RequestError as error:
        if "KV blocks" not in error.what:
            raise
        return False
    return True


def _add(driver: Any, request_id: str, request: Request) -> None:
    options = {name: value for name, value in request.items() if name != "prompt"}
    if "min_tokens" in options and options["min_tokens"] > options["max_tokens"]:
        del options["min_tokens"]
    driver.add(request_id, request["prompt"], **options)


def _summary(driver: Any, request_id: str, index: int) -> tuple[Any, ...]:
    outputs = driver.outputs[request_id, index]
    logprobs = [entry for output in outputs for entry in output.logprobs or ()]
    prompt = [output.prompt_logprobs for output in outputs if output.prompt_logprobs is not None]
    return driver.tokens[request_id, index], outputs[-1].finish_reason, outputs[-1].stop_reason, logprobs, prompt


def _check_against_alone(drive: Callable[..., Any], driver: Any, request_id: str, request: Request) -> None:
    expected = _alone(drive, repr(request))
    for index in range(request["n"]):
        tokens, reason, stop_reason, logprobs, prompt = _summary(driver, request_id, index)
        if reason == "abort":
            assert tokens == expected[index][0][: len(tokens)]
        else:
            same_leader = all(driver.finish_reason(request_id, i) != "abort" for i in range(request["n"]))
            assert (tokens, reason, stop_reason, logprobs) == expected[index][:4]
            assert prompt == expected[index][4] or not same_leader


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(engine=engines, ops=operations)
def test_each_sequence_is_as_if_it_had_run_alone(drive: Callable[..., Any], engine: Any, ops: list[Any]) -> None:
    driver = _make(drive, engine)
    added: dict[str, Request] = {}
    for op in ops:
        if isinstance(op, dict):
            request_id = f"r{len(added)}"
            if _try_add(driver, request_id, op):
                added[request_id] = op
        elif isinstance(op, int):
            for _ in range(op):
                driver.step()
        elif op[0] < len(added):
            driver.abort(f"r{op[0]}", op[1])
    driver.run()
    for request_id, request in added.items():
        _check_against_alone(drive, driver, request_id, request)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    engine=engines,
    wave=st.lists(requests, min_size=2, max_size=6),
    failures=st.dictionaries(st.integers(0, 12), st.sampled_from(["submit", "result"]), max_size=3),
)
def test_a_failing_device_ends_some_and_harms_no_other(
    drive: Callable[..., Any], engine: Any, wave: list[Request], failures: dict[int, Any]
) -> None:
    driver = _make(drive, engine)
    driver.executor.faults = FakeFaults({(call, number): "step" for number, call in failures.items()})
    added: dict[str, Request] = {}
    for number, request in enumerate(wave):
        if _try_add(driver, f"r{number}", request):
            added[f"r{number}"] = request
        driver.step()
    driver.run()
    driver.executor.faults = FakeFaults()
    _add(driver, "last", wave[-1] if f"r{len(wave) - 1}" in added else {"prompt": [1], "max_tokens": 2})
    driver.run()
    assert driver.finish_reason("last") in ("stop", "length")
    for request_id, request in added.items():
        expected = _alone(drive, repr(request))
        for index in range(request["n"]):
            tokens, reason, *rest = _summary(driver, request_id, index)
            if reason == "error":
                assert driver.outputs[request_id, index][-1].error
                assert tokens == expected[index][0][: len(tokens)]
            else:
                assert (tokens, reason, *rest) == expected[index]


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    engine=engines,
    ops=operations,
    failures=st.dictionaries(st.integers(0, 20), st.sampled_from(["submit", "result"]), max_size=4),
    broken_token=st.integers(0, 49),
    interrupted=st.lists(
        st.tuples(
            st.integers(0, 30),
            st.sampled_from(["schedule", "offer_to_cache", "finish"]),
            st.sampled_from([KeyboardInterrupt, ValueError]),
        ),
        max_size=3,
    ),
)
def test_failures_broken_rows_aborts_and_interruptions_together(
    drive: Callable[..., Any],
    engine: Any,
    ops: list[Any],
    failures: dict[int, Any],
    broken_token: int,
    interrupted: list[tuple[int, str, type[BaseException]]],
) -> None:
    """Whoever ends well has the tokens of one who ran alone; whoever does not has the first of them, and an error."""
    driver = _make(drive, engine)
    driver.executor.faults = FakeFaults({(call, number): "step" for number, call in failures.items()})
    driver.executor.broken_token = broken_token
    added: dict[str, Request] = {}

    def steps(count: int) -> None:
        for _ in range(count):
            if interrupted and driver.executor.num_submitted >= interrupted[0][0]:
                _interrupt_next_step(driver, *interrupted.pop(0)[1:])
            driver.step()

    for op in ops:
        if isinstance(op, dict):
            request_id = f"r{len(added)}"
            if _try_add(driver, request_id, op):
                added[request_id] = op
        elif isinstance(op, int):
            steps(op)
        elif op[0] < len(added):
            driver.abort(f"r{op[0]}", op[1])
    driver.run()
    for request_id, request in added.items():
        expected = _alone(drive, repr(request))
        for index in range(request["n"]):
            tokens, reason, stop_reason, *_ = _summary(driver, request_id, index)
            assert tokens == expected[index][0][: len(tokens)]
            if reason == "error":
                assert driver.outputs[request_id, index][-1].error is not None
            elif reason != "abort":
                assert (tokens, reason, stop_reason) == expected[index][:3]
                assert broken_token not in [request["prompt"][-1], *tokens[:-1]]


def _interrupt_next_step(driver: Any, place: str, error: type[BaseException]) -> None:
    """A step in which `error` is raised, if it comes to that place."""
    scheduler = driver.core.scheduler

    def interrupt(*arguments: Any) -> Any:
        raise error

    setattr(scheduler, place, interrupt)
    try:
        driver.take(driver.core.step())
    except KeyboardInterrupt:
        return
    finally:
        delattr(scheduler, place)
