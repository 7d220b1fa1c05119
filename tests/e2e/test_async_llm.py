"""AsyncLLM: one event loop, many requests, an engine process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.async_llm import AsyncLLM
from quire.engine.config import EngineConfig
from quire.engine.supervision import Supervision
from quire.errors import BackendError, ConfigError, InternalError, ModelError, RequestError
from quire.sampling_params import SamplingParams
from tests.serving import is_running

GREEDY = SamplingParams(temperature=0, max_tokens=5)
ENDLESS = SamplingParams(temperature=0, max_tokens=1000, ignore_eos=True)

Check = Callable[[AsyncLLM], Coroutine[Any, Any, None]]


@pytest.fixture
def with_engine(byte_model: Path) -> Callable[..., None]:
    """with_engine(check, **options): runs `check(engine)`; start=False leaves the start to it."""

    def run(check: Check, *, start: bool = True, supervision: Supervision | None = None, **options: Any) -> None:
        async def main() -> None:
            engine = AsyncLLM(
                EngineConfig(**{"model": str(byte_model), "device": "fake", "load_format": "dummy", **options}),
                supervision=supervision,
            )
            try:
                if start:
                    await engine.start()
                await check(engine)
            finally:
                engine.close()
                engine.close()

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


async def text_of(engine: AsyncLLM, prompt: str, params: SamplingParams = GREEDY) -> str:
    text = ""
    async for output in engine.generate(prompt, params):
        text = output.outputs[0].text
    return text


async def wait_idle(engine: AsyncLLM) -> None:
    while (stats := await engine.stats()).num_running or stats.num_waiting:
        await asyncio.sleep(0.01)
    assert stats.num_used_blocks == 0


def test_requests_together_and_one_after_another(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        await engine.start()  # again: does nothing
        assert await text_of(engine, "a") == "bcdef"
        assert await asyncio.gather(*(text_of(engine, chr(97 + i)) for i in range(10))) == [
            "".join(chr(98 + i + j) for j in range(5)) for i in range(10)
        ]
        assert await asyncio.gather(engine.stats(), engine.stats())
        assert (engine.max_model_len, engine.sampling_defaults) == (1024, {})
        assert await engine.render_chat([{"role": "user", "content": "x"}]) == "[user]x>"
        await wait_idle(engine)
        with pytest.raises(RequestError, match="prompt is empty"):
            await engine.prepare("", GREEDY)

    with_engine(check)


def test_leaving_early_and_being_cancelled_abort(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        async for _ in engine.generate("a", ENDLESS):
            break
        async with aclosing(engine.generate("a", ENDLESS)) as outputs:  # type: ignore[type-var]
            await anext(outputs)
        task = asyncio.create_task(text_of(engine, "a", ENDLESS))
        while (await engine.stats()).num_running == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await wait_idle(engine)
        assert (await engine.stats()).generated_tokens < 3000

    with_engine(check, device_options={"latency_ms": 2})


def test_an_id_may_come_again_and_stop_strings_end_both_sides(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        stopped = SamplingParams(temperature=0, max_tokens=1000, ignore_eos=True, stop="efg")
        for _ in range(3):  # while the engine still says of the one before that it was aborted
            async for output in engine.generate("a", stopped, request_id="same"):
                last = output
            assert (last.request_id, last.outputs[0].text, last.outputs[0].finish_reason) == ("same", "bcd", "stop")
        await wait_idle(engine)

    with_engine(check)


def test_a_request_that_the_core_refuses(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        with pytest.raises(RequestError, match="KV blocks") as caught:
            await text_of(engine, "a", ENDLESS)
        assert caught.value.param == "max_tokens"
        assert await text_of(engine, "a") == "bcdef"

    with_engine(check, num_kv_blocks=4)


def test_death_ends_every_stream_and_refuses_more(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        streams = [asyncio.create_task(text_of(engine, "a", ENDLESS)) for _ in range(3)]
        while (await engine.stats()).num_running < 3:
            await asyncio.sleep(0.01)
        os.kill(engine._supervisor.client.pid, signal.SIGKILL)
        asked = asyncio.create_task(engine.stats())
        for ended in await asyncio.gather(*streams, asked, return_exceptions=True):
            assert isinstance(ended, BackendError)
            assert "engine process ended" in str(ended)
        for ask in (engine.stats(), text_of(engine, "a")):
            with pytest.raises(BackendError, match="engine process ended"):
                await ask
        with pytest.raises(BackendError, match="nothing restarts it"):
            engine.check_health()
        assert "nothing restarts it" in str(await engine.wait_ended())
        assert (engine.num_restarts, engine.last_stats is None) == (0, False)

    with_engine(check, supervision=Supervision(on_death="exit"), device_options={"latency_ms": 5})


def test_outputs_that_cannot_be_taken_in_end_their_requests_and_no_others(
    with_engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(engine: AsyncLLM) -> None:
        def broken(outputs: Any) -> None:
            raise KeyError("broken")

        with monkeypatch.context() as patched:
            patched.setattr(engine._outputs, "process", broken)
            with pytest.raises(InternalError, match=r"could not be taken in\n.*KeyError"):
                await text_of(engine, "a")
        assert await text_of(engine, "a") == "bcdef"
        await wait_idle(engine)

    with_engine(check)


def test_before_the_start(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        with pytest.raises(BackendError, match="not started"):
            await engine.prepare("a", GREEDY)

    with_engine(check, start=False)


@pytest.mark.parametrize(
    ("options", "error"), [({"device": "abacus"}, ConfigError), ({"chat_template": "no such file"}, ModelError)]
)
def test_errors_of_the_start(with_engine: Callable[..., None], options: dict[str, Any], error: type[Exception]) -> None:
    async def check(engine: AsyncLLM) -> None:
        with pytest.raises(error):
            await engine.start()

    with_engine(check, start=False, **options)


def test_token_ids_only(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        assert engine.tokenizer is None
        async for output in engine.generate([97], GREEDY):
            last = output
        assert last.outputs[0].token_ids == [98, 99, 100, 101, 102]
        with pytest.raises(RequestError, match="chat without a tokenizer"):
            await engine.render_chat([{"role": "user", "content": "x"}])

    with_engine(check, skip_tokenizer_init=True)


async def wait_healthy(engine: AsyncLLM) -> None:
    while True:
        try:
            return engine.check_health()
        except BackendError:
            await asyncio.sleep(0.02)


async def wait_unhealthy(engine: AsyncLLM, timeout_s: float = 10.0) -> str:
    """What is said then."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                engine.check_health()
            except BackendError as error:
                return str(error)
            await asyncio.sleep(0.05)


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_restarts_leave_nothing_behind_and_have_a_limit(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        assert await text_of(engine, "a") == "bcdef"
        descriptors, threads, tasks = num_descriptors(), threading.active_count(), len(asyncio.all_tasks())
        for number in (1, 2):
            stream = asyncio.create_task(text_of(engine, "a", ENDLESS))
            while (await engine.stats()).num_running < 1:
                await asyncio.sleep(0.01)
            client = engine._supervisor.client
            os.kill(client.pid, signal.SIGKILL)
            with pytest.raises(BackendError, match=r"engine process ended\n.*SIGKILL"):
                await stream
            with pytest.raises(BackendError, match="is restarting"):
                await text_of(engine, "a")
            with pytest.raises(BackendError, match="is restarting"):
                await engine.stats()
            assert engine.last_stats is not None
            await wait_healthy(engine)
            assert engine.num_restarts == number
            assert await text_of(engine, "a") == "bcdef"
            assert not client._folder.path.exists()
        await wait_idle(engine)
        assert (num_descriptors(), threading.active_count()) == (descriptors, threads)
        assert len(asyncio.all_tasks()) <= tasks  # one of them may have been the start of a text worker
        os.kill(engine._supervisor.client.pid, signal.SIGABRT)
        assert "restarted 2 times in 600 s" in str(await engine.wait_ended())
        with pytest.raises(BackendError, match=r"SIGABRT\); it was restarted 2 times"):
            engine.check_health()

    with_engine(check, supervision=Supervision(max_restarts=2), device_options={"latency_ms": 2})


def test_a_death_while_the_next_process_loads_counts(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        killed: set[int] = set()
        ended = asyncio.create_task(engine.wait_ended())
        while not ended.done():
            if (pid := engine._supervisor.client.pid) not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
        assert (len(killed), engine.num_restarts) == (3, 2)

    with_engine(check, supervision=Supervision(max_restarts=2))


def test_closed_while_the_next_process_loads(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        first = engine._supervisor.client.pid
        os.kill(first, signal.SIGKILL)
        while (pid := engine._supervisor.client.pid) == first:
            await asyncio.sleep(0.01)
        engine.close()
        assert not is_running(pid)

    with_engine(check)


def test_a_stopped_engine_is_not_healthy_and_goes_on_untouched(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        stream = asyncio.create_task(text_of(engine, "a", ENDLESS))
        while (await engine.stats()).num_running < 1:
            await asyncio.sleep(0.01)
        engine.check_health()
        pid = engine._supervisor.client.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert "does not answer" in await wait_unhealthy(engine)
            with pytest.raises(BackendError, match="does not answer"):
                await text_of(engine, "a")
            assert (await engine.stats()).num_running == 1  # the last that is known
            assert not stream.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        await wait_healthy(engine)
        assert len(await stream) >= 900
        assert engine.num_restarts == 0

    with_engine(check, supervision=Supervision(health_timeout_s=1), device_options={"latency_ms": 4})


def test_a_step_that_never_ends_is_a_stuck_engine(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        stream = asyncio.create_task(text_of(engine, "a"))
        assert "does not answer" in await wait_unhealthy(engine)
        engine.close()
        stream.cancel()

    with_engine(check, supervision=Supervision(health_timeout_s=1), device_options={"latency_ms": 600_000})


def test_an_idle_engine_is_healthy(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        for _ in range(16):
            engine.check_health()
            await asyncio.sleep(0.1)

    with_engine(check, supervision=Supervision(health_timeout_s=1))


def test_an_engine_that_speaks_nonsense_is_replaced(
    with_engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(engine: AsyncLLM) -> None:
        client = engine._supervisor.client

        async def nonsense() -> tuple[bytes, bytes]:
            return b"outputs", b"\xc1"

        monkeypatch.setattr(client, "_receive", nonsense)
        while engine.num_restarts == 0:
            await asyncio.sleep(0.05)
        await wait_healthy(engine)
        assert not is_running(client.pid)
        assert await text_of(engine, "a") == "bcdef"

    with_engine(check)


def test_cancelled_while_it_starts(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        for wait_s in (0.0, 0.2):
            starting = asyncio.create_task(engine.start())
            await asyncio.sleep(wait_s)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            assert starting.cancelled()

    with_engine(check, start=False)


def test_numbers_that_no_message_holds_are_the_requests_fault(with_engine: Callable[..., None]) -> None:
    async def check(engine: AsyncLLM) -> None:
        prepared = await engine.prepare("a", GREEDY)
        for change in ({"priority": 2**70}, {"cache_salt": "\ud800"}):
            wrong = replace(prepared, message=replace(prepared.message, **change))
            with pytest.raises(RequestError, match="cannot be sent"):
                async for _ in engine.stream(wrong):
                    pass
        assert await text_of(engine, "a") == "bcdef"

    with_engine(check)


def test_another_model_in_the_same_place_is_not_served(
    with_engine: Callable[..., None], byte_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(byte_model, folder)

    async def check(engine: AsyncLLM) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 4}))
        pid = engine._supervisor.client.pid
        os.kill(pid, signal.SIGKILL)
        assert "another model than before" in str(await engine.wait_ended())
        assert not is_running(engine._supervisor.client.pid)

    with_engine(check, model=str(folder))


def test_a_supervisor_that_fails_leaves_nobody_waiting(
    with_engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(engine: AsyncLLM) -> None:
        def broken(*_: Any) -> None:
            raise ZeroDivisionError

        stream = asyncio.create_task(text_of(engine, "a", ENDLESS))
        while (await engine.stats()).num_running < 1:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(engine._supervisor, "_on_message", broken)
        with pytest.raises(BackendError, match=r"supervisor failed\n.*ZeroDivisionError"):
            await stream
        with pytest.raises(BackendError, match="supervisor failed"):
            engine.check_health()
        assert not is_running(engine._supervisor.client.pid)

    with_engine(check, device_options={"latency_ms": 2})
