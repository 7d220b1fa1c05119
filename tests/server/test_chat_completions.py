"""POST /v1/chat/completions through the openai client. The template turns a user's "a" into "[user]a>"."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from quire.server.foreign_request_fields import CHAT_FOREIGN
from quire.server.schemas import ChatCompletionRequest

AFTER_PROMPT = "?@ABC"
"""What follows ">"."""


def chat(client: OpenAI, content: Any = "a", **fields: Any) -> Any:
    fields = {"temperature": 0, "max_tokens": 5, "messages": [{"role": "user", "content": content}], **fields}
    return client.chat.completions.create(model="bytes", **fields)


def test_message_reason_and_usage(client: OpenAI) -> None:
    answer: ChatCompletion = chat(client)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", AFTER_PROMPT)
    assert (choice.finish_reason, choice.logprobs, answer.object) == ("length", None, "chat.completion")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len("[user]a>"), 5)  # type: ignore[union-attr]


def test_content_as_parts_and_roles(client: OpenAI) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "one"}]}]
    assert chat(client, messages=messages).usage.prompt_tokens == len("[system]s[user]one>")


def test_stream_starts_with_the_role_and_ends_with_usage(client: OpenAI) -> None:
    chunks = list(chat(client, n=2, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    texts = ["", ""]
    for chunk in chunks[:-1]:
        assert chunk.object == "chat.completion.chunk"
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [AFTER_PROMPT, AFTER_PROMPT]
    assert [c.choices[0].finish_reason for c in chunks[:-1]].count("length") == 2
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 10)


def test_max_completion_tokens(client: OpenAI) -> None:
    assert chat(client, max_tokens=None, max_completion_tokens=2).choices[0].message.content == AFTER_PROMPT[:2]


def test_without_a_limit_it_runs_to_the_end_of_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="bytes", temperature=0, messages=[{"role": "user", "content": "a"}])
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_with_alternatives_and_bytes(client: OpenAI) -> None:
    plain = chat(client, logprobs=True).choices[0].logprobs.content
    assert [item.token for item in plain] == list(AFTER_PROMPT)
    assert plain[0].top_logprobs == []
    content = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    for item in content:
        assert item.bytes == list(item.token.encode())
        values = [top.logprob for top in item.top_logprobs]
        assert (len(values), item.logprob) == (3, max(values))
        assert values == sorted(values, reverse=True)
    streamed = [
        item
        for chunk in chat(client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for item in chunk.choices[0].logprobs.content
    ]
    assert streamed == content


def test_template_options(client: OpenAI) -> None:
    length = len("[user]a")
    assert chat(client, extra_body={"add_generation_prompt": False}).usage.prompt_tokens == length
    assert chat(client, extra_body={"chat_template_kwargs": {"shout": True}}).usage.prompt_tokens == length + len("!>")
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert chat(client, tools=tools, tool_choice="none").usage.prompt_tokens == length + len("(1 tools)>")
    begun = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "xy"}]
    body = {"add_generation_prompt": False, "continue_final_message": True}
    assert chat(client, messages=begun, extra_body=body).choices[0].message.content == "z{|}~"


def test_prompt_logprobs_of_a_chat(client: OpenAI) -> None:
    answer = chat(client, extra_body={"prompt_logprobs": 0})
    assert len(answer.prompt_logprobs) == len("[user]a>")


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"store": False},
        {"service_tier": "auto"},
        {"modalities": ["text"]},
        {"user": "someone"},
    ],
)
def test_values_that_mean_nothing_special_are_taken(client: OpenAI, fields: dict[str, Any]) -> None:
    assert chat(client, **fields).choices[0].message.content == AFTER_PROMPT


@pytest.mark.parametrize("include", [True, False])
def test_usage_is_in_every_chunk_where_asked_the_role_chunk_too(client: OpenAI, include: bool) -> None:
    options = {"continuous_usage_stats": True, "include_usage": include}
    chunks = list(chat(client, n=2, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 10
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {len("[user]a>")}
    assert [len(chunk.choices) for chunk in chunks] == [1] * (len(chunks) - include) + [0] * include


def test_usage_is_null_in_the_chunks_before_the_last(client: OpenAI) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert ["usage" in chunk.model_fields_set for chunk in chunks] == [True] * len(chunks)
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    plain = list(chat(client, stream=True))
    assert not any("usage" in chunk.model_fields_set for chunk in plain)


@pytest.mark.parametrize("stream", [True, False])
def test_token_ids_and_names_by_id(client: OpenAI, stream: bool) -> None:
    extra = {"return_token_ids": True, "return_tokens_as_token_ids": True, "add_special_tokens": True}
    answer = chat(client, logprobs=True, top_logprobs=2, stream=stream, extra_body=extra)
    chunks = list(answer) if stream else [answer]
    choices = [chunk.choices[0] for chunk in chunks]
    ids = [token for choice in choices for token in getattr(choice, "token_ids", [])]
    assert ids == list(AFTER_PROMPT.encode())
    assert chunks[0].prompt_token_ids == list(b"[user]a>")
    names = [item.token for choice in choices if choice.logprobs for item in choice.logprobs.content]
    assert names == [f"token_id:{token}" for token in ids]


def test_one_limit_under_two_names(client: OpenAI) -> None:
    assert chat(client, max_tokens=None, max_completion_tokens=2).choices[0].message.content is not None
    same = chat(client, max_tokens=10**20, max_completion_tokens=10**25, stop="B")  # both mean: to the model's length
    assert same.choices[0].message.content == "?@A"


def test_null_is_absent_everywhere(client: OpenAI) -> None:
    kept = ("messages", "model", "stream", "temperature", "max_tokens", "top_p")
    nothing = {name: None for name in (*ChatCompletionRequest.model_fields, *CHAT_FOREIGN) if name not in kept}
    message = {"role": "user", "content": "a", **dict.fromkeys(("name", "tool_calls", "refusal", "audio"), None)}
    answer = chat(client, messages=[{**message, "annotations": []}], extra_body={**nothing, "no_such_field": None})
    assert answer.choices[0].message.content == AFTER_PROMPT
