"""Conversations, the chat template, and how a conversation becomes training tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
TOOL_RESPONSE, TOOL_RESPONSE_END = "<tool_response>", "</tool_response>"

CHAT_TEMPLATE = """\
{%- if tools or messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
        {%- if tools %}{{- '\\n\\n' }}{% endif %}
    {%- endif %}
    {%- if tools %}
        {{- '# Tools\\n<tools>' }}
        {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
        {{- '\\n</tools>\\nTo call a tool, write its name and arguments as JSON inside <tool_call></tool_call>.' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + (message['content'] or '') }}
        {%- for call in message['tool_calls'] or [] %}
            {%- set function = call['function'] or call %}
            {%- if message['content'] or not loop.first %}{{- '\\n' }}{% endif %}
            {{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' }}
            {%- if function['arguments'] is string %}{{- function['arguments'] }}
            {%- else %}{{- function['arguments'] | tojson }}{% endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message['role'] != 'system' or not loop.first %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""


@dataclass(frozen=True)
class Conversation:
    """Turns of (user, assistant) text, the kind of exercise, the tools that were offered, the system message."""

    kind: str
    turns: tuple[tuple[str, str], ...]
    tools: tuple[dict[str, Any], ...] = field(default=())
    system: str = ""

    @property
    def prompt(self) -> str:
        """Everything up to the last answer, as one text; identifies an exercise."""
        pairs = render(self)
        return "".join(given + answer for given, answer in pairs[:-1]) + pairs[-1][0]


def preamble(conversation: Conversation) -> str:
    """The system turn: the system message and the offered tools; nothing where there is neither."""
    parts = [conversation.system] if conversation.system else []
    if conversation.tools:
        lines = "".join("\n" + json.dumps(tool) for tool in conversation.tools)
        how = f"To call a tool, write its name and arguments as JSON inside {TOOL_CALL}{TOOL_CALL_END}."
        parts.append(f"# Tools\n<tools>{lines}\n</tools>\n{how}")
    text = "\n\n".join(parts)
    return f"{IM_START}system\n{text}{IM_END}\n" if parts else ""


def render(conversation: Conversation) -> list[tuple[str, str]]:
    """Pairs (text that is given, text to learn); joined, they are what CHAT_TEMPLATE renders.

    A user turn that holds a tool's response is written with its tags by the generator.
    """
    pairs = []
    before = preamble(conversation)
    for user, assistant in conversation.turns:
        pairs.append((f"{before}{IM_START}user\n{user}{IM_END}\n{IM_START}assistant\n", assistant + IM_END))
        before = "\n"
    return pairs


def encode(conversation: Conversation, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Token ids and, for each, whether it is to be learnt (it belongs to an answer)."""
    ids: list[int] = []
    learn: list[bool] = []
    for given, answer in render(conversation):
        for text, flag in ((given, False), (answer, True)):
            part = tokenizer.encode(text, add_special_tokens=False).ids
            ids += part
            learn += [flag] * len(part)
    return ids, learn
