"""The built-in model from text to text: the offline API, the server and the command line say the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from quire import LLM, SamplingParams
from tests.serving import Server

PROMPTS = ["A block table", "def main", "Hello", "x" * 40, "The scheduler"]
LONG_PROMPT = "The KV cache is kept in blocks. " * 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On the device that auto takes."""
    started = Server(log=tmp_path_factory.mktemp("demo") / "log")
    try:
        yield started.wait_ready()
    finally:
        started.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as opened:
        yield opened


def test_server_and_offline_api_agree(client: OpenAI, llm: LLM) -> None:
    offline = llm.generate([*PROMPTS, LONG_PROMPT], SamplingParams(temperature=0, max_tokens=12))
    served = client.completions.create(model="demo", prompt=[*PROMPTS, LONG_PROMPT], temperature=0, max_tokens=12)
    assert [choice.text for choice in served.choices] == [output.outputs[0].text for output in offline]
    assert served.usage.prompt_tokens == sum(len(output.prompt_token_ids) for output in offline)  # type: ignore[union-attr]


def test_seeded_draws_agree_and_logprobs_are_close(client: OpenAI, llm: LLM) -> None:
    params = SamplingParams(temperature=1, top_k=50, top_p=0.95, max_tokens=12, seed=11, n=2, logprobs=3)
    (offline,) = llm.generate("Once", params)
    served = client.completions.create(
        model="demo",
        prompt="Once",
        temperature=1,
        top_p=0.95,
        max_tokens=12,
        seed=11,
        n=2,
        logprobs=3,
        extra_body={"top_k": 50},
    )
    assert [choice.text for choice in served.choices] == [item.text for item in offline.outputs]
    for choice, item in zip(served.choices, offline.outputs, strict=True):
        values = [entry[token].logprob for entry, token in zip(item.logprobs or [], item.token_ids, strict=True)]
        assert choice.logprobs.token_logprobs == pytest.approx(values, abs=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("fields", [{}, {"stop": ["e", "a"]}, {"stop": "the"}])
def test_chats_agree_streaming_and_not(client: OpenAI, llm: LLM, fields: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a KV block?"}]
    (offline,) = llm.chat(messages, SamplingParams(temperature=0, max_tokens=30, **fields))
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": messages,
        "temperature": 0,
        "max_completion_tokens": 30,
        **fields,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == offline.outputs[0].text
    assert whole.choices[0].finish_reason == offline.outputs[0].finish_reason
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == offline.outputs[0].text
    assert chunks[-1].choices[0].finish_reason == offline.outputs[0].finish_reason


def test_a_cached_prefix_changes_nothing(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": LONG_PROMPT, "temperature": 0, "max_tokens": 8}
    cold = client.completions.create(**asked, extra_body={"cache_salt": "cold"})
    warm = client.completions.create(**asked, extra_body={"cache_salt": "cold"})
    assert cold.usage.prompt_tokens_details.cached_tokens == 0  # type: ignore[union-attr]
    assert warm.usage.prompt_tokens_details.cached_tokens > 0  # type: ignore[union-attr,operator]
    assert cold.choices[0].text == warm.choices[0].text


def test_the_models_defaults_hold_where_a_request_says_nothing(llm: LLM) -> None:
    assert llm.get_default_sampling_params().max_tokens == 256


def test_command_line_agrees(llm: LLM) -> None:
    command = [
        sys.executable,
        "-m",
        "quire.cli.main",
        "generate",
        "What is a block?",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (offline,) = llm.chat(
        [{"role": "user", "content": "What is a block?"}], SamplingParams(temperature=0, max_tokens=8)
    )
    assert ended.stdout == offline.outputs[0].text + "\n"


def test_everything_is_free_in_the_end(server: Server) -> None:
    server.wait_idle()
