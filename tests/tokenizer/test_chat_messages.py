"""Histories as no client should send them: each is an error that names the place, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import RequestError
from quire.field_ranges import MAX_DEPTH
from quire.tokenizer.chat_messages import prepare_messages, prepare_objects
from quire.tokenizer.chat_template import ChatTemplate


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def with_call(call: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]


def function(**fields: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": fields}


CALL = "messages[1].tool_calls[0]"
ODD_CALLS = [
    (5, CALL),
    (None, CALL),
    ([], CALL),
    ("f", CALL),
    ({}, f"{CALL}.function"),
    ({"id": "1"}, f"{CALL}.function"),
    ({"function": 5}, f"{CALL}.function"),
    ({"function": ["f"]}, f"{CALL}.function"),
    ({"name": 5}, f"{CALL}.function"),
    (function(arguments="{}"), f"{CALL}.function.name"),
    (function(name=5, arguments="{}"), f"{CALL}.function.name"),
    (function(name="f", arguments="{"), f"{CALL}.function.arguments"),
    (function(name="f", arguments="[" * 100_000), f"{CALL}.function.arguments"),
    (function(name="f", arguments="[" * 100_000 + "]" * 100_000), f"{CALL}.function.arguments"),
    (function(name="f", arguments='{"a":' * 90 + "1" + "}" * 90), f"{CALL}.function.arguments"),
    (function(name="f", arguments="9" * 5000), f"{CALL}.function.arguments"),
    (function(name="f", arguments='{"a": NaN}'), f"{CALL}.function.arguments"),
    (function(name="f", arguments="[1]"), f"{CALL}.function.arguments"),
    (function(name="f", arguments='"text"'), f"{CALL}.function.arguments"),
    (function(name="f", arguments=5), f"{CALL}.function.arguments"),
    (function(name="f", arguments=[1]), f"{CALL}.function.arguments"),
]


@pytest.mark.parametrize(("call", "place"), ODD_CALLS, ids=range(len(ODD_CALLS)))
def test_an_odd_call_is_named(call: Any, place: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare_messages(with_call(call))
    assert caught.value.param == place
    assert caught.value.what.startswith(place)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("message", "place"), [
    ({"tool_calls": 5}, "messages[0].tool_calls"),
    ({"tool_calls": "f"}, "messages[0].tool_calls"),
    ({"tool_calls": {"a": 1}}, "messages[0].tool_calls"),
    ({"name": 5}, "messages[0].name"),
    ({"tool_call_id": ["a"]}, "messages[0].tool_call_id"),
    ({"reasoning_content": {"a": 1}}, "messages[0].reasoning_content"),
    ({"content": 5}, "messages[0].content"),
    ({"content": [5]}, "messages[0].content"),
    ({"content": [{"type": ["x"], "text": "a"}]}, "messages[0].content"),
    ({"content": [{"type": "text", "text": None}]}, "messages[0].content"),
    ({"role": ["user"]}, "messages[0]"),
    ({"content": nested(200)}, "messages[0]"),
])  # fmt: skip
def test_an_odd_message_is_named(message: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError) as caught:
        prepare_messages([{"role": "user", "content": "a", **message}])
    assert caught.value.param == place


def test_healthy_calls_are_as_they_were() -> None:
    calls = [
        function(name="f", arguments='{"a": [1, {"b": null}]}'),
        function(name="f", arguments=""),
        function(name="f", arguments={"a": 1}),
        function(name="f"),
        {"name": "g", "arguments": {"a": 2}},
    ]
    message = prepare_messages([{"role": "assistant", "tool_calls": calls}])[0]
    functions = [call.get("function") for call in message["tool_calls"]]
    assert functions == [
        {"name": "f", "arguments": {"a": [1, {"b": None}]}},
        {"name": "f", "arguments": {}},
        {"name": "f", "arguments": {"a": 1}},
        {"name": "f"},
        None,
    ]
    assert message["tool_calls"][4] == {"name": "g", "arguments": {"a": 2}}
    assert calls[0]["function"]["arguments"] == '{"a": [1, {"b": null}]}'


def test_as_deep_as_is_taken() -> None:
    text = "{" + '"a":{' * (MAX_DEPTH - 1) + "}" * MAX_DEPTH
    assert prepare_messages(with_call(function(name="f", arguments=text)))
    with pytest.raises(RequestError, match="too deeply"):
        prepare_messages(with_call(function(name="f", arguments='{"a":' + text + "}")))


def test_tools_documents_and_variables_are_objects() -> None:
    assert prepare_objects("tools", None) is None
    assert prepare_objects("tools", [{"a": 1}]) == [{"a": 1}]
    for given, place in (
        (5, "tools"),
        ("a", "tools"),
        ([5], "tools[0]"),
        ([{}, None], "tools[1]"),
        ([{"a": nested(90)}], "tools[0]"),
    ):
        with pytest.raises(RequestError) as caught:
            prepare_objects("tools", given)
        assert caught.value.param == place
    template = ChatTemplate({"default": "{{ messages[0].content }}{{ tools }}{{ documents }}{{ x }}"})
    chat = [{"role": "user", "content": "a"}]
    for options, place in (
        ({"tools": [5]}, "tools[0]"),
        ({"documents": ["a"]}, "documents[0]"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": nested(90)}}, "chat_template_kwargs"),
    ):
        with pytest.raises(RequestError) as caught:
            template.render(chat, **options)
        assert caught.value.param == place
