"""Jobs of text workers: their answers, and what becomes of those that take too long or too much."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quire.engine.config import EngineConfig
from quire.engine.input_processor import InputProcessor, ModelLimits
from quire.engine.text_side import TextSource, load_text_side
from quire.engine.text_workers.pool import TextWorkers
from quire.errors import ModelError, QuireError, RequestError
from quire.sampling_params import SamplingParams

LIMITS = ModelLimits(
    model_path="m",
    vocab_size=260,
    max_model_len=1024,
    max_num_seqs=8,
    eos_token_ids=(256,),
    max_logprobs=20,
    scheduling_policy="priority",
)
CHAT = [{"role": "user", "content": "x"}]
HOSTILE = (
    "{% if messages[0].content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}{% endif %}"
    "{% if messages[0].content == 'large' %}{{ 'a' * 20000000000 }}{% endif %}"
    "{% if messages[0].content == 'long' %}{{ 'a' * 2000000 }}{% endif %}"
    "{% if messages[0].content == 'deep' %}{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}{% endif %}"
    "[{{ messages[0].role }}]{{ messages[0].content }}"
)


def with_pool(check: Callable[[TextWorkers], Awaitable[None]], byte_model: Path, **options: Any) -> None:
    """Runs `check` on a started pool over the byte model with the hostile template."""

    async def main() -> None:
        pool = TextWorkers(**options)
        try:
            await pool.start(TextSource(str(byte_model), False, HOSTILE))
            await check(pool)
        finally:
            pool.close()
            pool.close()

    asyncio.run(asyncio.wait_for(main(), 90))


async def render(pool: TextWorkers, content: Any, **message: Any) -> str:
    return await pool.render([{"role": "user", "content": content, **message}], {}, max_chars=10_000)


async def prepare(pool: TextWorkers, prompt: str | list[int], **fields: Any) -> Any:
    return await pool.prepare(
        LIMITS, prompt, SamplingParams(**fields), request_id="r", priority=3, cache_salt="s", add_special_tokens=True
    )


def pids(pool: TextWorkers) -> list[int]:
    return [place._worker.process.pid for place in pool._places if place._worker is not None]


async def both_ready(pool: TextWorkers) -> None:
    while not all(place.is_free for place in pool._places):
        await asyncio.sleep(0.02)


def test_answers_are_those_of_the_input_processor(byte_model: Path) -> None:
    tokenizer, _ = load_text_side(EngineConfig(model=str(byte_model), device="fake"))
    inputs = InputProcessor(LIMITS, tokenizer)

    async def check(pool: TextWorkers) -> None:
        for prompt, fields in (("ab é🙂", {"stop": ["x"], "logit_bias": {3: 1.5}}), ([1, 2], {"bad_words": ["no"]})):
            ours = await prepare(pool, prompt, **fields)
            theirs = inputs.prepare(prompt, SamplingParams(**fields), request_id="r", priority=3, cache_salt="s")
            for name in type(ours.message).__slots__:
                if name != "arrival_time_s":
                    assert getattr(ours.message, name) == getattr(theirs.message, name), name
            assert (ours.request_id, ours.prompt, ours.detokenize) == ("r", theirs.prompt, theirs.detokenize)
        assert await render(pool, "hi") == "[user]hi"
        assert await render(pool, "hi", name="\ud800", number=10**40) == "[user]hi"

    with_pool(check, byte_model)


def test_errors_come_back_as_they_are(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        with pytest.raises(RequestError, match="prompt is empty") as caught:
            await prepare(pool, "")
        assert caught.value.param == "prompt"
        with pytest.raises(RequestError, match="surrogate"):
            await prepare(pool, "\ud83d")
        with pytest.raises(RequestError, match="no token id"):
            await prepare(pool, [2**70], bad_words=["x"])
        with pytest.raises(RequestError, match="has no role"):
            await pool.render([{"content": "x"}], {}, max_chars=100)
        with pytest.raises(RequestError, match="is no JSON"):
            await pool.render([{"role": "user", "content": {1, 2}}], {}, max_chars=100)
        with pytest.raises(RequestError, match="characters"):
            await render(pool, "long")
        with pytest.raises(RequestError):
            await render(pool, "deep")
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model)


def test_a_template_without_end_is_ended_and_others_do_not_wait(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        await both_ready(pool)
        before = pids(pool)
        endless = asyncio.create_task(render(pool, "loop"))
        await asyncio.sleep(0.1)
        start_s = time.monotonic()
        for _ in range(20):
            assert await render(pool, "hi") == "[user]hi"
        assert time.monotonic() - start_s < 2.0
        with pytest.raises(RequestError, match="could not be prepared") as caught:
            await endless
        assert "longer than 2 s" in caught.value.because
        await both_ready(pool)
        assert len(set(pids(pool)) & set(before)) == 1
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model, timeout_s=2.0)


def test_more_templates_without_end_than_workers(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        jobs = [asyncio.create_task(render(pool, "loop")) for _ in range(3)]
        ends = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(end, QuireError) for end in ends)
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model, num_workers=1, timeout_s=1.0)


def test_memory_is_bounded(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        with pytest.raises(RequestError):
            await render(pool, "large")
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model)


def test_a_worker_that_is_killed_is_replaced(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        await both_ready(pool)
        for pid in pids(pool):
            os.kill(pid, signal.SIGKILL)
        ends = await asyncio.gather(render(pool, "hi"), render(pool, "hi"), return_exceptions=True)
        assert all(end == "[user]hi" or "SIGKILL" in end.because for end in ends)
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model)


def test_a_worker_that_is_stopped_is_replaced(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        await both_ready(pool)
        before = pids(pool)
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        ends = await asyncio.gather(*(render(pool, "hi") for _ in before), return_exceptions=True)
        assert all(isinstance(end, RequestError) for end in ends)
        await both_ready(pool)
        assert not set(pids(pool)) & set(before)
        assert await render(pool, "hi") == "[user]hi"

    with_pool(check, byte_model, timeout_s=1.0)


def test_a_pre_tokenizer_that_never_ends_is_ended(byte_model: Path, tmp_path: Path) -> None:
    """A regular expression whose time doubles with every character of some texts: its library gives up by itself."""
    folder = Path(shutil.copytree(byte_model, tmp_path / "model"))
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}
    file.write_text(json.dumps(tokenizer))

    async def check(pool: TextWorkers) -> None:
        assert (await prepare(pool, "xy", max_tokens=4)).message.prompt_token_ids
        with pytest.raises(RequestError) as caught:
            await prepare(pool, "x" * 200, max_tokens=4)
        assert "retry-limit" in caught.value.because
        assert (await prepare(pool, "xy", max_tokens=4)).message.prompt_token_ids

    with_pool(check, folder, timeout_s=2.0)


def test_a_job_whose_client_has_gone_is_not_begun(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        busy = asyncio.create_task(render(pool, "loop"))
        await asyncio.sleep(0.1)
        gone = [asyncio.create_task(render(pool, "loop")) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in gone:
            task.cancel()
        start_s = time.monotonic()
        with pytest.raises(RequestError):
            await busy
        assert await render(pool, "hi") == "[user]hi"
        assert time.monotonic() - start_s < 5.0

    with_pool(check, byte_model, num_workers=1, timeout_s=1.0)


def test_long_texts_leave_a_worker_for_short_ones(byte_model: Path) -> None:
    async def check(pool: TextWorkers) -> None:
        await both_ready(pool)
        taken = {id(place): place.short_only for place in pool._places}
        assert sorted(taken.values()) == [False, True]
        waiting = [asyncio.create_task(render(pool, "loop", padding="x" * 70_000)) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert await render(pool, "hi") == "[user]hi"
        for task in waiting:
            task.cancel()

    with_pool(check, byte_model, timeout_s=5.0)


def test_workers_that_cannot_start_say_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        with_pool(lambda pool: asyncio.sleep(0), tmp_path / "nothing")


def test_nothing_is_left_when_it_is_closed_in_the_middle(byte_model: Path) -> None:
    async def main() -> list[int]:
        pool = TextWorkers()
        await pool.start(TextSource(str(byte_model), False, HOSTILE))
        await both_ready(pool)
        found = pids(pool)
        busy = asyncio.create_task(render(pool, "loop"))
        await asyncio.sleep(0.1)
        pool.close()
        busy.cancel()
        return found

    for pid in asyncio.run(main()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
