from __future__ import annotations

import contextlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError, RequestError
from quire.tokenizer import Tokenizer
from quire.tokenizer.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

PLAIN = """{{ bos_token }}{% for message in messages %}
<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""

EXACT = """{%- for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor -%}"""

TOOLS = """{%- if tools %}
    {{- 'Tools:\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}
{% endfor %}
    {{- tools[0] | tojson(indent=2) }}
{%- endif %}
{%- set ns = namespace(calls=0, last='') %}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{% continue %}{% endif %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- set ns.calls = ns.calls + 1 %}
            {{- '<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}
        {%- endfor %}
    {%- elif message.content is string %}
        {{- '[' ~ message.role ~ '] ' ~ message.content }}
    {%- endif %}
    {%- if message.reasoning_content %}{{- '(' ~ message.reasoning_content ~ ')' }}{% endif %}
    {%- generation %}{{- loop.index0 }}{% endgeneration %}
    {%- if message.role == 'stop' %}{% break %}{% endif %}
{%- endfor %}
{{- ns.calls }}{{ dict(a=1).a }}
{%- if enable_thinking is defined and not enable_thinking %}<nothink>{% endif %}
{%- if documents %}{{- documents[0].title }}{% endif %}
{%- if add_generation_prompt %}{{- '[assistant] ' }}{% endif %}"""

PARTS = """{%- for message in messages %}{{- message.role + ':' }}
{%- if message.content is string %}{{- message.content }}{% else %}
{%- for part in message.content %}{%- if part.type == 'text' %}{{- '<' + part.text + '>' }}{% endif %}{% endfor %}
{%- endif %}{% endfor %}"""

DATED = """{{ strftime_now('%d %b %Y') }}
{%- if messages[0].role != 'user' %}{{ raise_exception('no user, no go') }}{% endif %}"""

SOURCES = {"plain": PLAIN, "exact": EXACT, "tools": TOOLS, "parts": PARTS, "dated": DATED}

CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]}}}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": 'Wetter für <city> & "mehr"', "parameters": CITY},
}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "  Wie ist das Wetter in Köln? 🙂 <b>&</b> "},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "n": 1.5}}}]},
    {"role": "tool", "tool_call_id": "1", "content": "{\"sky\": \"blau\"}"},
    {"role": "system", "content": "later"},
    {"role": "assistant", "content": "Blau.\n", "reasoning": "easy"},
]  # fmt: skip
TEXT_TALK = [
    {"role": "user", "content": "  Hello  "},
    {"role": "assistant", "content": "Hi there \n"},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "I am "},
]


def ours(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, SPECIAL)


@pytest.fixture(scope="module")
def theirs(tokenizers_by_kind: dict[str, Tokenizer]) -> Any:
    """transformers' own, the definition of what comes out."""
    transformers = pytest.importorskip("transformers", reason="transformers, the oracle, is not installed")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers_by_kind["byte_level"].backend, **SPECIAL)


CASES: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("plain", TEXT_TALK, {"add_generation_prompt": True}),
    ("plain", TEXT_TALK, {"add_generation_prompt": False}),
    ("plain", TEXT_TALK, {"add_generation_prompt": False, "continue_final_message": True}),
    ("exact", TEXT_TALK, {"add_generation_prompt": False}),
    ("exact", TEXT_TALK, {"add_generation_prompt": False, "continue_final_message": True}),
    ("exact", TEXT_TALK[:1], {"add_generation_prompt": False, "continue_final_message": True}),
    ("tools", TALK, {"add_generation_prompt": True}),
    ("tools", TALK, {"add_generation_prompt": True, "tools": [TOOL, TOOL]}),
    ("tools", TALK, {"add_generation_prompt": False, "tools": []}),
    ("tools", [*TALK, {"role": "stop", "content": "x"}, {"role": "user", "content": "y"}], {}),
    ("tools", TEXT_TALK, {"add_generation_prompt": True, "enable_thinking": False}),
    ("tools", TEXT_TALK, {"add_generation_prompt": True, "enable_thinking": True, "documents": [{"title": "T"}]}),
    ("parts", [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], {}),
    ("parts", TEXT_TALK, {"continue_final_message": True}),
    ("parts", [{"role": "user", "content": [{"type": "text", "text": "a "}]}], {"continue_final_message": True}),
    ("dated", TEXT_TALK, {}),
    ("plain", TEXT_TALK, {"bos_token": "<other>"}),
]


@pytest.mark.parametrize(("name", "messages", "options"), CASES)
def test_prompts_are_those_of_transformers(
    theirs: Any, name: str, messages: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    options = {"add_generation_prompt": False, **options}
    before = json.dumps(messages)
    expected = theirs.apply_chat_template(messages, chat_template=SOURCES[name], tokenize=False, **options)
    assert ours(SOURCES[name]).render(messages, **options) == expected
    assert json.dumps(messages) == before


def test_text_parts_are_joined_for_templates_that_want_strings() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert ours(EXACT).render(parts) == "user: one\ntwo\n"
    assert ours(PARTS).render(parts) == "user:<one><two>"


def test_templates_that_only_know_parts_get_parts() -> None:
    source = """{% for m in messages %}{% set c = m['content'] -%}
    {% for p in c %}<{{ p['text'] }}>{% endfor %}{% endfor %}"""
    assert ours(source).render([{"role": "user", "content": "hello"}]) == "<hello>"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_parts_are_refused_by_name(kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": kind, kind: {}}]}]
    for source in (EXACT, PARTS):
        with pytest.raises(RequestError, match=kind) as caught:
            ours(source).render(messages)
        assert caught.value.param == "messages[0].content"


def test_arguments_that_come_as_json_text_become_objects() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a":  "ü"}'}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert '<call>f {"a": "ü"}</call>' in ours(TOOLS).render(messages)
    call["function"] = {"name": "f", "arguments": ""}
    assert "<call>f {}</call>" in ours(TOOLS).render(messages)
    call["function"] = {"name": "f", "arguments": "{broken"}
    with pytest.raises(RequestError, match="not JSON"):
        ours(TOOLS).render(messages)


@pytest.mark.parametrize(
    ("messages", "what"),
    [([], "empty"), ("text", "list"), ([{"content": "x"}], "no role"), (["x"], "no role"),
     ([{"role": "user", "content": 5}], "neither a string")],
)  # fmt: skip
def test_malformed_messages_are_refused(messages: Any, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        ours(PLAIN).render(messages)


def test_what_a_template_refuses_is_passed_on() -> None:
    with pytest.raises(RequestError, match="no user, no go"):
        ours(DATED).render([{"role": "system", "content": "x"}])
    with pytest.raises(RequestError, match="refuses"):
        ours(EXACT).render([{"role": "assistant"}])


def test_today_is_known() -> None:
    before = datetime.now().strftime("%d %b %Y")
    assert ours(DATED).render(TEXT_TALK) in (before, datetime.now().strftime("%d %b %Y"))


@pytest.mark.parametrize(
    "attack",
    ["{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[0].update(role='x') }}",
     "{{ raise_exception.__globals__ }}{{ strftime_now.__globals__['json'] }}"],
)  # fmt: skip
def test_templates_run_in_a_sandbox(attack: str) -> None:
    try:
        text = ours(attack).render([{"role": "user", "content": "x"}])
    except RequestError:
        return
    assert text == "", "an unsafe attribute is undefined at most"


def test_contradictions_are_refused() -> None:
    template = ours(PLAIN)
    with pytest.raises(RequestError, match="add_generation_prompt"):
        template.render(TEXT_TALK, continue_final_message=True)
    with pytest.raises(RequestError, match="messages, tools"):
        template.render(TEXT_TALK, chat_template_kwargs={"tools": [], "messages": []})
    with pytest.raises(RequestError, match="no text"):
        template.render([{"role": "assistant"}], continue_final_message=True, add_generation_prompt=False)
    with pytest.raises(RequestError, match="not possible"):
        ours("constant").render(TEXT_TALK, continue_final_message=True, add_generation_prompt=False)


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(RequestError, match="no chat template") as caught:
        ChatTemplate({}).render(TEXT_TALK)
    assert "--chat-template" in caught.value.hint


def test_named_templates() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "with tools", "rag": "documents"})
    assert template.render(TEXT_TALK) == "plain"
    assert template.render(TEXT_TALK, tools=[TOOL]) == "with tools"
    assert template.render(TEXT_TALK, template_name="rag") == "documents"
    with pytest.raises(RequestError, match="no chat template 'other'"):
        template.render(TEXT_TALK, template_name="other")


def test_a_broken_template_names_its_line() -> None:
    with pytest.raises(RequestError, match="line 2"):
        ours("fine\n{% if %}").render(TEXT_TALK)


def test_where_templates_come_from(tmp_path: Path) -> None:
    def load(config: dict[str, Any], override: Any = None) -> dict[str, str]:
        return dict(ChatTemplate.from_folder(tmp_path, config, SPECIAL, override=override).templates)

    assert load({}) == {}
    assert load({"chat_template": "one"}) == {"default": "one"}
    assert load({"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}) == {
        "default": "a",
        "tool_use": "b",
    }
    with pytest.raises(ModelError, match="malformed"):
        load({"chat_template": [1]})
    (tmp_path / "chat_template.json").write_text('{"chat_template": "from json"}')
    assert load({"chat_template": "one"}) == {"default": "from json"}
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load({"chat_template": "one"}) == {"default": "file"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert load({"chat_template": "one"}) == {"default": "file", "tool_use": "tools"}
    assert load({}, override="{{ x }}") == {"default": "{{ x }}"}
    (tmp_path / "mine.txt").write_text("mine")
    assert load({}, override=tmp_path / "mine.txt") == {"default": "mine"}
    with pytest.raises(ModelError, match="cannot be read"):
        load({}, override="missing.jinja")


def test_a_chat_becomes_tokens_without_a_second_bos(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = Tokenizer(tokenizers_by_kind["byte_level"].backend, chat_template=ours(PLAIN), special_tokens=SPECIAL)
    assert tokenizer.has_chat_template
    token_ids = tokenizer.encode(tokenizer.apply_chat_template(TEXT_TALK), add_special_tokens=False)
    assert token_ids.count(tokenizer.bos_token_id) == 1
    assert not tokenizers_by_kind["byte_level"].has_chat_template


def test_a_template_of_megabytes_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    long = "{{ 1 }}" * 100_000
    with pytest.raises(ModelError, match="700000 characters"):
        ChatTemplate.from_texts({"tool_use": long}, {})
    with pytest.raises(ModelError, match="700000 characters"):
        ChatTemplate.from_folder(tmp_path, {"chat_template": [{"name": "default", "template": long}]}, {})
    (tmp_path / "chat_template.jinja").write_text(long)
    with pytest.raises(ModelError, match=r"chat_template\.jinja has 700000 bytes"):
        ChatTemplate.from_folder(tmp_path, {}, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 300 + "x" + "{% endif %}" * 300,
        "{% for a in [1] %}" * 60 + "x" + "{% endfor %}" * 60,
        "{{ 1 | nofilter }}",
        "{% for %}",
        "{{",
        "{% macro %}",
        "{{ " + "[" * 300 + "]" * 300 + " }}",
        "{{ " + "-" * 5000 + "1 }}",
    ],
)
def test_templates_that_no_compiler_takes_are_the_requests_error_or_run(source: str) -> None:
    template = ChatTemplate.from_texts({"default": source}, {})
    with contextlib.suppress(RequestError):
        assert isinstance(template.render([{"role": "user", "content": "x"}]), str)
