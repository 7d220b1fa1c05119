"""Messages of the chat API in the form that templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import RequestError

_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""Names under which clients send an answer's reasoning; templates read the first, some the second."""


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], *, wants_parts: bool = False, takes_strings: bool = True
) -> list[dict[str, Any]]:
    """Copies of the messages for a template; the caller's stay as they are.

    Fields that are null are left out. A content of text parts is joined by newlines into a string, unless the
    template goes through parts; a template that cannot take strings gets one text part instead. Arguments of tool
    calls, which the API carries as JSON text, become objects. Reasoning is given under all the names in use.

    Args:
        wants_parts: the template loops over parts of a content.
        takes_strings: the template can do with a string as content.
    Raises: RequestError for messages that are not objects with a role, parts that are not text, and arguments that
        are not JSON.
    """
    if isinstance(messages, (str, Mapping)) or not messages:
        raise RequestError("messages is empty or no list", because="a conversation has at least one message",
                           try_="[{'role': 'user', 'content': '...'}]", param="messages")  # fmt: skip
    prepared = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f"{where} has no role", because="each message is an object with role and content",
                               try_="a role such as 'user'", param=where)  # fmt: skip
        copy = {key: value for key, value in message.items() if value is not None}
        if "content" in copy:
            copy["content"] = _content(copy["content"], where, wants_parts, takes_strings)
        if "tool_calls" in copy:
            calls = enumerate(copy["tool_calls"])
            copy["tool_calls"] = [_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in calls]
        reasoning = next((copy[name] for name in _REASONING_NAMES if name in copy), None)
        if reasoning is not None:
            copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
        prepared.append(copy)
    return prepared


def _content(content: Any, where: str, wants_parts: bool, takes_strings: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content if takes_strings else [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise RequestError(f"{where}.content is neither a string nor a list of parts",
                           because=f"it is a {type(content).__name__}", try_="a string",
                           param=f"{where}.content")  # fmt: skip
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(f"{where}.content[{index}] is of type {kind!r}", because="only text parts can be read",
                               try_="a part {'type': 'text', 'text': '...'}", param=f"{where}.content")  # fmt: skip
        texts.append(part["text"])
    if wants_parts:
        return [dict(part) for part in content]
    return "\n".join(texts)


def _tool_call(call: Any, where: str) -> Any:
    """The tool call with its arguments as an object where they came as JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError as error:
        raise RequestError(f"{where}.function.arguments is not JSON", because=str(error),
                           try_="the arguments as a JSON object", param=where) from error  # fmt: skip
    return {**call, "function": {**function, "arguments": arguments}}
