"""`quire chat`: the template turns a conversation into "[role]text[role]text>"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire.engine.llm_engine import LLMEngine

GREEDY = ("--temperature", "0", "--max-tokens", "3")


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model reads, conversation by conversation."""
    seen: list[str] = []
    render = LLMEngine.render_chat

    def recorded(engine: LLMEngine, messages: Any, **options: Any) -> str:
        seen.append(render(engine, messages, **options))
        return seen[-1]

    monkeypatch.setattr(LLMEngine, "render_chat", recorded)
    return seen


def test_answers_are_remembered_until_clear(quire: Callable, on_fake: tuple[str, ...], prompts: list[str]) -> None:
    ended = quire("chat", "--system", "s", *on_fake, *GREEDY, stdin="one\n\ntwo\n/clear\nthree\n/exit\nnever\n")
    assert (ended.code, ended.out) == (0, "?@A\n?@A\n?@A\n")
    assert prompts == ["[system]s[user]one>", "[system]s[user]one[assistant]?@A[user]two>", "[system]s[user]three>"]
    assert "/help lists the commands" in ended.err


def test_what_cannot_be_answered_is_forgotten(quire: Callable, on_fake: tuple[str, ...], prompts: list[str]) -> None:
    ended = quire("chat", *on_fake, *GREEDY, stdin=f"{'x' * 2000}\n/what\nshort\n")
    assert ended.out == "?@A\n"
    assert "error: the prompt has 2007 tokens" in ended.err
    assert prompts[-1] == "[user]short>"


def test_model_as_first_word(quire: Callable, byte_model: Any) -> None:
    ended = quire("chat", str(byte_model), "--device", "fake", "--load-format", "dummy", *GREEDY, stdin="a")
    assert ended.out == "?@A\n"


def test_an_interrupted_answer_stays_in_the_conversation(
    quire: Callable, on_fake: tuple[str, ...], prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = LLMEngine.step, iter(range(1000))

    def interrupted(engine: LLMEngine) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(LLMEngine, "step", interrupted)
    ended = quire("chat", *on_fake, "--temperature", "0", "--max-tokens", "9", stdin="one\ntwo\n")
    partial, whole = ended.out.splitlines()
    assert (whole, whole.startswith(partial), len(partial) < 9) == ("?@ABCDEFG", True, True)
    assert prompts[1] == f"[user]one[assistant]{partial}[user]two>"
