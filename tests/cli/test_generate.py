"""`quire generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GREEDY = ("--temperature", "0", "--max-tokens", "5")


def test_raw_text_goes_on(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "a", "--raw", *on_fake, *GREEDY)
    assert (ended.code, ended.out, ended.err) == (0, "bcdef\n", "")


def test_with_the_chat_template(quire: Callable, on_fake: tuple[str, ...]) -> None:
    assert quire("generate", "a", *on_fake, *GREEDY).out == "?@ABC\n"  # what follows ">"


def test_prompt_from_standard_input_and_stats(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "-", "--raw", "--stats", *on_fake, *GREEDY, stdin="xa")
    assert ended.out == "bcdef\n"
    assert "2 prompt tokens, first token after" in ended.err
    assert "5 tokens, " in ended.err


def test_several_answers_stop_strings_and_seed(quire: Callable, on_fake: tuple[str, ...]) -> None:
    assert quire("generate", "a", "--raw", *on_fake, *GREEDY, "-n", "2", "--stop", "d").out == "bc\n--- 2\nbc\n"
    drawn = ("generate", "a", "--raw", *on_fake, "--temperature", "2", "--max-tokens", "20")
    first, again, other = (quire(*drawn, "--sampling-seed", seed).out for seed in ("1", "1", "2"))
    assert first == again != other


def test_system_needs_a_template(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "a", "--raw", "--system", "s", *on_fake)
    assert (ended.code, "--system needs a chat template" in ended.err) == (2, True)


def test_chat_template_from_a_file(quire: Callable, on_fake: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}{{ messages[1].content }}")
    words = ("generate", "a", "--system", "s", "--chat-template", str(tmp_path / "t.jinja"))
    assert quire(*words, *on_fake, *GREEDY).out == "bcdef\n"
    assert quire("generate", "a", "--chat-template", str(tmp_path / "none"), *on_fake).code == 2


def test_over_long_prompt(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "a" * 2000, "--raw", *on_fake)
    assert (ended.code, "the prompt has 2000 tokens" in ended.err) == (2, True)


def test_interrupt_prints_what_there_is(
    quire: Callable, on_fake: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from quire.engine.llm_engine import LLMEngine

    steps = iter(range(4))
    step = LLMEngine.step

    def interrupted(engine: LLMEngine) -> list:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(LLMEngine, "step", interrupted)
    ended = quire("generate", "a", "--raw", "--stats", *on_fake, "--temperature", "0")
    assert ended.code == 0
    assert "bcdef".startswith(ended.out.strip())
    assert "stopped after" in ended.err
