"""Messages of the chat API in the form that templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import RequestError
from quire.field_ranges import check_depth, shown

_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""Names under which clients send an answer's reasoning; templates read the first, some the second."""


_TEXTS = ("name", "tool_call_id", *_REASONING_NAMES)
"""Fields of a message that are texts."""


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
    Raises: RequestError that names the place, for messages that are not objects with a role, parts that are not text,
        calls that are no calls, arguments that are no JSON object, and what is nested too deeply.
    """
    if isinstance(messages, (str, Mapping)) or not messages:
        raise RequestError(
            "messages is empty or no list",
            because="a conversation has at least one message",
            hint="[{'role': 'user', 'content': '...'}]",
            param="messages",
        )
    return [
        _prepared(message, f"messages[{index}]", wants_parts, takes_strings) for index, message in enumerate(messages)
    ]


def _prepared(message: Any, where: str, wants_parts: bool, takes_strings: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(
            f"{where} has no role",
            because="each message is an object with role and content",
            hint="a role such as 'user'",
            param=where,
        )
    check_depth(where, message)
    copy = {key: value for key, value in message.items() if value is not None}
    for name in _TEXTS:
        if not isinstance(copy.get(name, ""), str):
            raise _odd(f"{where}.{name}", copy[name], "a text")
    if "content" in copy:
        copy["content"] = _content(copy["content"], where, wants_parts, takes_strings)
    if "tool_calls" in copy:
        calls = copy["tool_calls"]
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise _odd(f"{where}.tool_calls", calls, "a list of calls")
        copy["tool_calls"] = [_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    reasoning = next((copy[name] for name in _REASONING_NAMES if name in copy), None)
    if reasoning is not None:
        copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
    return copy


def prepare_objects(name: str, objects: Any) -> list[dict[str, Any]] | None:
    """Copies of tools or documents for a template; None stays None.

    Raises: RequestError that names the place, for what is no list of objects or is nested too deeply.
    """
    if objects is None:
        return None
    if not isinstance(objects, Sequence) or isinstance(objects, str):
        raise _odd(name, objects, "a list of objects")
    for index, item in enumerate(objects):
        if not isinstance(item, Mapping):
            raise _odd(f"{name}[{index}]", item, "an object")
        check_depth(f"{name}[{index}]", item)
    return [dict(item) for item in objects]


def _content(content: Any, where: str, wants_parts: bool, takes_strings: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content if takes_strings else [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise RequestError(
            f"{where}.content is neither a string nor a list of parts",
            because=f"it is a {type(content).__name__}",
            hint="a string",
            param=f"{where}.content",
        )
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{where}.content[{index}] is of type {shown(kind)}",
                because="only text parts can be read",
                hint="a part {'type': 'text', 'text': '...'}",
                param=f"{where}.content",
            )
        texts.append(part["text"])
    if wants_parts:
        return [dict(part) for part in content]
    return "\n".join(texts)


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    """The tool call with its arguments as an object where they came as JSON text.

    A call has its function in an object, as the API has it, or is that object itself, as some templates have it.
    """
    if not isinstance(call, Mapping):
        raise _odd(where, call, "an object with a function")
    function = call.get("function")
    if function is None and isinstance(call.get("name"), str):
        return dict(call)
    if not isinstance(function, Mapping):
        raise _odd(f"{where}.function", function, "an object with name and arguments")
    if not isinstance(function.get("name"), str):
        raise _odd(f"{where}.function.name", function.get("name"), "a text")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments, f"{where}.function.arguments")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise _odd(f"{where}.function.arguments", arguments, "an object")
    given = {} if "arguments" not in function else {"arguments": arguments or {}}
    return {**call, "function": {**function, **given}}


def _parsed(text: str, where: str) -> Any:
    try:
        value = json.loads(text or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        because = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(
            f"{where} is not JSON", because=because, hint="the arguments as a JSON object", param=where
        ) from error
    check_depth(where, value)
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _odd(where: str, value: Any, wanted: str) -> RequestError:
    return RequestError(f"{where} is {shown(value)}", because=f"{wanted} is expected there", hint=wanted, param=where)
