"""Many clients at once, clients that leave, and what the service routes say."""

from __future__ import annotations

import asyncio
import contextlib
import time
from random import Random
from typing import Any

import httpx
from openai import AsyncOpenAI, OpenAI

from quire import __version__
from tests.byte_model import MAX_MODEL_LEN
from tests.serving import Server, wait_for

ENDLESS = {"model": "bytes", "prompt": "a", "temperature": 0, "max_tokens": 900, "ignore_eos": True}


def test_service_routes(server: Server, client: OpenAI) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/version").json() == {"version": __version__}
    models = client.models.list().data
    assert [model.id for model in models] == ["bytes", "alias"]
    assert models[0].max_model_len == MAX_MODEL_LEN  # type: ignore[attr-defined]
    assert client.models.retrieve("alias").id == "alias"
    assert client.completions.create(model="alias", prompt="a", max_tokens=1, temperature=0).model == "alias"


async def _text_of(client: AsyncOpenAI, number: int, stream: bool) -> str:
    prompt = chr(ord("A") + number)
    answer: Any = await client.completions.create(
        model="bytes", prompt=prompt, max_tokens=20, temperature=0, stream=stream
    )
    if not stream:
        return str(answer.choices[0].text)
    return "".join([chunk.choices[0].text async for chunk in answer])


def test_32_requests_at_once_streaming_and_not(server: Server) -> None:
    async def run() -> list[str]:
        async with server.async_client() as client:
            return await asyncio.gather(*(_text_of(client, number, number % 2 == 0) for number in range(32)))

    for number, text in enumerate(asyncio.run(run())):
        start = ord("A") + number + 1
        assert text == "".join(map(chr, range(start, start + 20)))
    server.wait_idle()


def _generated(server: Server) -> float:
    return server.metrics()["quire_generation_tokens_total"]


def test_client_that_leaves_a_stream(server: Server) -> None:
    before = _generated(server)
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**ENDLESS, "n": 3, "stream": True}, timeout=60
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()  # to be kept: with the iterator httpx closes the response
        assert next(lines).startswith("data: ")
        assert server.metrics()["quire_num_requests_running"] == 3
        assert server.metrics()["quire_kv_blocks_used"] > 0
        assert 0 <= server.metrics()["quire_kv_cache_waste"] < 1
    server.wait_idle()
    assert _generated(server) - before < 3 * 900  # it was aborted, not finished


def test_client_that_leaves_before_its_answer(server: Server) -> None:
    before = _generated(server)

    async def run() -> None:
        async with httpx.AsyncClient() as client:
            asking = asyncio.create_task(
                client.post(f"{server.url}/v1/completions", json={**ENDLESS, "prompt": ["a", "b"]})
            )
            while (await asyncio.to_thread(server.metrics))["quire_num_requests_running"] < 2:
                await asyncio.sleep(0.01)
            asking.cancel()

    asyncio.run(run())
    server.wait_idle()
    assert _generated(server) - before < 2 * 900


def test_chat_client_that_leaves(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, "ignore_eos": True, "max_tokens": 900}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        while '"content":""' in (line := next(lines)) or not line:
            pass
    server.wait_idle()


async def _leave_after(client: httpx.AsyncClient, server: Server, random: Random) -> None:
    """Reads some events of some stream, or waits for some answer a while, and goes."""
    body = {
        **ENDLESS,
        "prompt": ["a" * random.randint(1, 300), "b"],
        "n": random.randint(1, 3),
        "stream": random.random() < 0.7,
    }
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(random.random()),
            client.stream("POST", f"{server.url}/v1/completions", json=body) as response,
        ):
            count = random.randint(0, 40)
            async for _ in response.aiter_lines():
                count -= 1
                if count < 0:
                    break


def test_forty_clients_that_leave_at_any_moment(server: Server) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=40)) as client:
            await asyncio.gather(*(_leave_after(client, server, Random(seed)) for seed in range(40)))

    asyncio.run(run())
    server.wait_idle()
    assert server.post("/v1/completions", {**ENDLESS, "max_tokens": 3}).json()["choices"][0]["text"] == "bcd"


def test_streams_are_events_that_end_with_done(server: Server) -> None:
    lines = server.post("/v1/completions", {**ENDLESS, "max_tokens": 3, "stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])


def test_user_is_written_to_the_log(server: Server) -> None:
    answer = server.post("/v1/completions", {**ENDLESS, "max_tokens": 1, "user": "jo\nhn"}).json()
    wait_for(lambda: f"{answer['id']}-0: 1 prompt tokens, max_tokens=1, user='jo\\nhn'" in server.log.read_text(), 5)


def test_slow_reader_does_not_hold_up_others(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "stream": True}, timeout=60):
        start_s = time.monotonic()
        answer = server.post("/v1/completions", {**ENDLESS, "max_tokens": 3})
        assert answer.json()["choices"][0]["text"] == "bcd"
        assert time.monotonic() - start_s < 5
    server.wait_idle()


def test_metrics_are_prometheus_text_with_the_models_name(server: Server) -> None:
    response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "quire_num_requests_running",
        "quire_num_requests_waiting",
        "quire_kv_blocks_free",
        "quire_kv_blocks_used",
        "quire_kv_cache_waste",
    ):
        assert f'{name}{{model_name="bytes"}}' in response.text
        assert f"# HELP {name} " in response.text
