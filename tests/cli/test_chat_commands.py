"""Commands of `quire chat`: each is obeyed, and a wrong one is one line, after which the talk goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.cli.chat.commands import COMMANDS
from quire.cli.chat.conversation import Conversation
from quire.cli.chat.settings import READERS, Settings
from quire.errors import RequestError

GREEDY = ("--temperature", "0", "--max-tokens", "3")


@pytest.fixture
def chat(quire: Callable, on_fake: tuple[str, ...]) -> Callable:
    """chat(*lines): what a talk of these lines wrote; every answer is "?@A"."""
    return lambda *lines: quire("chat", *on_fake, *GREEDY, stdin="\n".join(lines) + "\n")


def test_help_names_every_command(chat: Callable) -> None:
    shown = chat("/help").err
    for command in COMMANDS:
        assert all(f"/{name}" in shown for name in command.names)


@pytest.mark.parametrize("line", ["/exit", "/quit", "/bye"])
def test_leaving(chat: Callable, line: str) -> None:
    assert chat(line, "a").out == ""


@pytest.mark.parametrize(("line", "said"), [
    ("/stat", "/stat is no command (try /stats)"),
    ("/Clear", "(try /clear)"),
    ("/usr/bin is full", "/usr/bin is no command"),
    ("/", "is no command"),
    ("/" + "x" * 5000, "is no command"),
    ("/set temperature", "has no value"),
    ("/set temperature warm", "temperature is a number, not 'warm'"),
    ("/set temperature -1", "temperature=-1.0 is not allowed"),
    ("/set top_p nan", "top_p="),
    ("/set max_tokens 1e99", "max_tokens is a whole number"),
    ("/set max_tokens -5", "max_tokens=-5 is not allowed"),
    ("/set stop [1", "stop is a text, or JSON"),
    ("/set stop [1]", "stop="),
    ("/set logprobs 3", "'logprobs' is no setting"),
    ("/set temprature 0", "'temprature' is no setting (try temperature)"),
    ("/save", "/save has no file name"),
    ("/save /no/such/folder/x", "/no/such/folder/x cannot be written: No such file"),
    ("/save! /no/such/folder/x", "/no/such/folder/x cannot be written: No such file"),
    ("/save a\0b", "cannot be written"),
    ("/load", "/load has no file name"),
    ("/load /no/such/file", "/no/such/file cannot be read: No such file"),
    ("/load a\0b", "cannot be read"),
    ("/regen", "there is no answer to draw again"),
    ("a\udcff", "the line is not UTF-8"),
])  # fmt: skip
def test_a_wrong_line_is_one_line_and_the_talk_goes_on(chat: Callable, line: str, said: str) -> None:
    ended = chat(line, "a")
    (error,) = (shown for shown in ended.err.splitlines() if shown.startswith("error:"))
    assert said in error
    assert len(error) < 600
    assert (ended.code, ended.out) == (0, "?@A\n")


def test_settings_are_listed_set_and_reset(chat: Callable) -> None:
    ended = chat(
        "/set", "/set max_tokens 5", "a", "/set stop C", "a", "/set max-tokens default", "/set stop default", "a"
    )
    assert ended.out == "?@ABC\n?@AB\n?@A\n"
    assert all(f"\n{name} " in ended.err for name in READERS)
    assert "stopped after 5 tokens (--max-tokens; /set max_tokens N" in ended.err


def test_system_message_stats_and_a_blank_before_a_slash(chat: Callable) -> None:
    ended = chat("/stats", "/system be brief", "/system", " /usr is a folder", "/stats")
    assert ended.out == "?@A\n"
    assert "no answer yet; context: 0 of 1024 tokens" in ended.err
    assert "\nbe brief\n" in ended.err
    assert "last answer: 39 prompt tokens" in ended.err
    assert "context: 52 of 1024 tokens" in ended.err


def test_save_and_load(chat: Callable, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    first = chat("/system s", "one", "/set top_k 7", f"/save {file}", "two", f"/save {file}", "/clear", "/stats")
    assert f"error: {file} exists (try /save! {file} to write over it)" in first.err
    content = json.loads(file.read_text())
    assert [message["role"] for message in content["messages"]] == ["system", "user", "assistant"]
    assert (content["settings"]["top_k"], content["settings"]["max_tokens"]) == (7, 3)
    again = chat(f"/load {file}", "/set", "two", f"/save! {file}")
    assert "1 questions and answers" in again.err
    assert "top_k               7\n" in again.err
    assert len(json.loads(file.read_text())["messages"]) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


@pytest.mark.parametrize(("content", "said"), [
    (b"", "cannot be read"),
    (b"\xff\xfe", "cannot be read"),
    (b"[" * 100000, "nested too deeply"),
    (b"3", "no list of messages"),
    (b"null", "no list of messages"),
    (b"{}", "no list of messages"),
    (b'["a"]', "message 1 cannot be read"),
    (b'[{"role": "user", "content": 1}]', "message 1 cannot be read"),
    (b'[{"role": ["user"], "content": "a"}]', "its role is not one of"),
    (b'[{"role": "tool", "content": "a"}]', "its role is not one of"),
    (b'[{"role": "user", "content": "a"}]', "the last question has no answer"),
    (b'[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]', "message 2 cannot be read"),
    (b'{"messages": [], "settings": 3}', "its settings are no object"),
    (b'{"messages": [], "settings": {"top_q": 1}}', "'top_q' is no setting"),
    (b'{"messages": [], "settings": {"top_p": [1]}}', "top_p="),
    (b'{"messages": [], "settings": {"max_tokens": true}}', "max_tokens="),
])  # fmt: skip
def test_a_file_that_is_no_conversation(chat: Callable, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "odd.json").write_bytes(content)
    ended = chat("one", f"/load {tmp_path}/odd.json", "two", f"/save {tmp_path}/after.json")
    (error,) = (shown for shown in ended.err.splitlines() if shown.startswith("error:"))
    assert said in error
    assert len(json.loads((tmp_path / "after.json").read_text())["messages"]) == 4  # nothing was changed


def test_what_is_no_regular_file_is_not_read(chat: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "it is no regular file" in chat(f"/load {tmp_path}/pipe").err
    assert "cannot be read: Is a directory" in chat(f"/load {tmp_path}").err


def test_an_answer_is_drawn_again(chat: Callable, tmp_path: Path) -> None:
    ended = chat("a", "/set max_tokens 2", "/regen", f"/save {tmp_path}/x")
    assert ended.out == "?@A\n?@\n"
    assert [m["content"] for m in json.loads((tmp_path / "x").read_text())["messages"]] == ["a", "?@"]


def test_a_conversation_that_fills_the_context(chat: Callable) -> None:
    ended = chat("a", "x" * 1100, "b", "/clear", "c")
    assert ended.out == "?@A\n?@A\n?@A\n"
    assert "/clear forgets it" in ended.err


def test_settings_change_together_or_not_at_all() -> None:
    settings = Settings({"max_tokens": 4})
    with pytest.raises(RequestError):
        settings.update({"top_k": 3, "top_p": 9})
    assert settings.params.top_k == 0
    settings.set("max_tokens", "0")
    assert settings.params.max_tokens is None
    settings.set("stop", '"\\n"')
    assert settings.as_json()["stop"] == ["\n"]


def test_a_conversation_without_questions_has_nothing_to_take_back() -> None:
    conversation = Conversation("s")
    assert conversation.take_last() is None
    conversation.add("q", "a")
    assert (conversation.take_last(), conversation.messages()) == (("q", "a"), [{"role": "system", "content": "s"}])
