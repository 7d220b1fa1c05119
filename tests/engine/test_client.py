"""The engine process as its parent sees it. One process for the tests that leave it alive."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from quire.engine.client import EngineClient
from quire.engine.config import EngineConfig
from quire.engine.messages import EngineRequest, EngineStats
from quire.engine.wire import Refusal
from quire.errors import BackendError, ConfigError, ModelError
from quire.sampling_params import SamplingParams
from tests.byte_model import EOS
from tests.serving import is_running

PARAMS = SamplingParams(
    temperature=0, max_tokens=3, seed=2**64 - 1, logit_bias={5: 1.0}, stop_token_ids=[7], logprobs=1
)


def request(request_id: str, **fields: Any) -> EngineRequest:
    return EngineRequest(**{"request_id": request_id, "prompt_token_ids": (97,), "params": PARAMS, **fields})


@pytest.fixture
def with_client(byte_model: Path) -> Callable[..., None]:
    """with_client(check, **options): runs `check(client)` and closes the client."""

    def run(check: Callable[[EngineClient], Coroutine[Any, Any, None]], **options: Any) -> None:
        client = EngineClient(
            EngineConfig(**{"model": str(byte_model), "device": "fake", "load_format": "dummy", **options})
        )
        try:
            asyncio.run(asyncio.wait_for(check(client), 60))
        finally:
            client.close()
            client.close()
        assert not is_running(client.pid)
        assert not client._folder.path.exists()

    return run


def test_requests_refusals_aborts_and_statistics(with_client: Callable[..., None]) -> None:
    async def check(client: EngineClient) -> None:
        limits = await client.wait_ready()
        assert (limits.vocab_size, limits.max_model_len, limits.eos_token_ids) == (260, 1024, (EOS,))
        client.add_request(request("one"))
        tokens: list[int] = []
        while len(tokens) < 3:
            (output,) = await client.receive()  # type: ignore[misc]
            assert output.request_id == "one"
            assert output.logprobs[0].token_ids[0] == output.new_token_ids[0]
            tokens += output.new_token_ids
        assert output.finish_reason == "length"
        client.add_request(request("two", prompt_token_ids=(260,)))
        refusal = await client.receive()
        assert isinstance(refusal, Refusal)
        assert (refusal.request_id, refusal.failure.param) == ("two", "prompt")
        client.add_request(
            request("three", params=SamplingParams(max_tokens=1000, temperature=0, ignore_eos=True, n=2))
        )
        client.abort([("three", 1), ("never seen", None), ("three", None)])
        ended: set[int] = set()
        while len(ended) < 2:
            ended |= {item.index for item in await client.receive() if item.finish_reason == "abort"}  # type: ignore[union-attr]
        client.request_stats()
        stats = await client.receive()
        assert isinstance(stats, EngineStats)
        assert (stats.num_running, stats.num_used_blocks, stats.requests_finished) == (0, 0, 2)

    with_client(check)


def test_death_is_noticed_while_waiting_and_while_sending(with_client: Callable[..., None]) -> None:
    async def check(client: EngineClient) -> None:
        await client.wait_ready()
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"engine process ended\n.*signal 9 \(SIGKILL"):
            await client.receive()
        with pytest.raises(BackendError, match="engine process ended"):
            client.add_request(request("one"))

    with_client(check)


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"device": "abacus"}, ConfigError, "'abacus' is not installed"),
    ({"model": "no such folder!"}, ModelError, "no model"),
    ({"num_kv_blocks": 9, "device_options": {"memory_blocks": 3}}, BackendError, "out of memory"),
])  # fmt: skip
def test_the_error_that_stopped_it_comes_back_as_it_was(
    with_client: Callable[..., None], options: Any, error: type[Exception], said: str
) -> None:
    async def check(client: EngineClient) -> None:
        with pytest.raises(error, match=said) as caught:
            await client.wait_ready()
        assert type(caught.value) is error
        assert caught.value.because  # type: ignore[attr-defined]

    with_client(check, **options)


def test_closed_before_it_was_ready(with_client: Callable[..., None]) -> None:
    async def check(client: EngineClient) -> None:
        waiting = asyncio.create_task(client.wait_ready())
        await asyncio.sleep(0.05)
        waiting.cancel()

    with_client(check)
