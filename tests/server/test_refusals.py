"""What is wrong is refused by the name of its field, in OpenAI's shape; nothing is ignored."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.byte_model import EOS, MAX_MODEL_LEN, VOCAB_SIZE
from tests.serving import Server

CHAT = [{"role": "user", "content": "a"}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
TOOL = {"type": "function", "function": {"name": "f"}}

COMPLETION_REFUSALS: list[tuple[dict[str, Any], str | None]] = [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [VOCAB_SIZE]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": "a" * MAX_MODEL_LEN}, "prompt"),
    ({"prompt": ["a", "a" * MAX_MODEL_LEN], "stream": True}, "prompt"),
    ({"prompt": "a", "temprature": 1}, "temprature"),
    ({"prompt": "a", "return_token_ids": 1}, "return_token_ids"),
    ({"prompt": "a", "request_id": "two lines\nof log"}, "request_id"),
    ({"prompt": "a", "messages": CHAT}, "messages"),
    ({"prompt": "a", "temperature": -1}, "temperature"),
    ({"prompt": "a", "temperature": "hot"}, "temperature"),
    ({"prompt": "a", "top_p": 0}, "top_p"),
    ({"prompt": "a", "top_p": 1.5}, "top_p"),
    ({"prompt": "a", "top_k": -2}, "top_k"),
    ({"prompt": "a", "n": 0}, "n"),
    ({"prompt": "a", "n": "2"}, "n"),
    ({"prompt": "a", "n": 5000}, "n"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
    ({"prompt": "a", "min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"prompt": "a", "presence_penalty": 3}, "presence_penalty"),
    ({"prompt": "a", "stop": [""]}, "stop"),
    ({"prompt": "a", "stop": 1}, "stop"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "logprobs": -1}, "logprobs"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
    ({"prompt": "a", "allowed_token_ids": []}, "allowed_token_ids"),
    ({"prompt": "a", "stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
    ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    ({"prompt": "a", "best_of": 5000}, "best_of"),
    ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "priority": 1}, "priority"),
    ({"prompt": "a", "cache_salt": ""}, "cache_salt"),
    ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": True, "stream_options": {"usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": "yes"}, "stream"),
    ({"prompt": "a", "max_tokens": 0, "echo": True, "min_tokens": 1}, "min_tokens"),
    ({"prompt": ["a"] * 200, "n": 100}, "prompt"),
    ({"prompt": "a", "allowed_token_ids": [EOS], "min_tokens": 2}, "allowed_token_ids"),
]  # fmt: skip
CHAT_REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour"),
    ({}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "a"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content"),
    ({"messages": CHAT, "prompt": "a"}, "prompt"),
    ({"messages": CHAT, "tools": [TOOL]}, "tools"),
    ({"messages": CHAT, "tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ({"messages": CHAT, "functions": []}, "functions"),
    ({"messages": CHAT, "response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": CHAT, "response_format": {"type": "text", "schema": {}}}, "response_format"),
    ({"messages": CHAT, "top_logprobs": 2}, "top_logprobs"),
    ({"messages": CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": CHAT, "logprobs": 1}, "logprobs"),
    ({"messages": CHAT, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"messages": CHAT, "continue_final_message": True}, "continue_final_message"),
    ({"messages": CHAT, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"messages": CHAT, "store": True}, "store"),
    ({"messages": CHAT, "modalities": ["text", "audio"]}, "modalities"),
    ({"messages": CHAT, "reasoning_effort": "high"}, "reasoning_effort"),
    ({"messages": [{"role": "user", "content": "a" * MAX_MODEL_LEN}]}, "messages"),
]  # fmt: skip


def check(response: httpx.Response, param: str | None) -> None:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(("body", "param"), COMPLETION_REFUSALS, ids=lambda value: str(value)[:50])
def test_completion(server: Server, body: dict[str, Any], param: str | None) -> None:
    check(server.post("/v1/completions", body), param)


@pytest.mark.parametrize(("body", "param"), CHAT_REFUSALS, ids=lambda value: str(value)[:50])
def test_chat(server: Server, body: dict[str, Any], param: str) -> None:
    check(server.post("/v1/chat/completions", body), param)


def test_over_long_prompt_says_what_fits(server: Server) -> None:
    message = server.post("/v1/completions", {"prompt": "a" * 2000}).json()["error"]["message"]
    assert "2000 tokens" in message
    assert str(MAX_MODEL_LEN) in message


def test_every_wrong_field_is_named(server: Server) -> None:
    message = server.post("/v1/completions", {"prompt": "a", "n": "x", "colour": "red"}).json()["error"]["message"]
    assert "n: " in message
    assert "colour: unknown field" in message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff"])
def test_bodies_that_are_no_object(server: Server, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/completions", content=body, headers={"Content-Type": "application/json"})
    check(response, None)


def test_half_a_surrogate_pair_is_answered_too(server: Server) -> None:
    half = "\ud800"
    typed = [{"role": "user", "content": [{"type": half}]}]
    for path, body in (
        ("completions", {"prompt": half}),
        ("completions", {"prompt": "a", half: half}),
        ("completions", {"prompt": "a", "model": half}),
        ("completions", {"prompt": "a", "stop": half}),
        ("completions", {"prompt": "a", "user": half}),
        ("chat/completions", {"messages": typed}),
        ("chat/completions", {"messages": CHAT, "chat_template_kwargs": {half: 1, "shout": half}}),
    ):
        headers = {"Content-Type": "application/json"}
        response = httpx.post(f"{server.url}/v1/{path}", content=json.dumps(body), headers=headers)
        assert response.status_code < 500, body


def test_unknown_model_path_and_method(server: Server) -> None:
    wrong_model = server.post("/v1/completions", {"model": "gpt-5", "prompt": "a"})
    assert (wrong_model.status_code, wrong_model.json()["error"]["param"]) == (404, "model")
    assert "alias" in wrong_model.json()["error"]["message"]
    with server.client() as client, pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    wrong_path = server.post("/v1/embeddings", {})
    assert (wrong_path.status_code, wrong_path.json()["error"]["type"]) == (404, "NotFoundError")
    assert httpx.get(f"{server.url}/v1/completions").status_code == 405


def test_nothing_is_left_behind(server: Server) -> None:
    server.wait_idle()
