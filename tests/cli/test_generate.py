"""`quire generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GREEDY = ("--temperature", "0", "--max-tokens", "5")


def test_raw_text_goes_on(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "a", "--raw", *on_fake, *GREEDY)
    assert (ended.code, ended.out, ended.err) == (0, "bcdef\n", "stopped after 5 tokens (--max-tokens N; 0 = no cap)\n")


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
    assert ended.code == 130
    assert "bcdef".startswith(ended.out.strip())
    assert "stopped after" in ended.err


@pytest.mark.parametrize(("prompt", "stdin"), [("", ""), (" \t\n", ""), ("-", ""), ("-", "\n \n")])
def test_a_prompt_without_text_is_refused(quire: Callable, on_fake: tuple[str, ...], prompt: str, stdin: str) -> None:
    ended = quire("generate", prompt, *on_fake, stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert "error: the prompt is empty" in ended.err


def copied(on_fake: tuple[str, ...], folder: Path, name: str, old: str, new: str) -> tuple[str, ...]:
    """Flags of a copy of the model in which one file says something else."""
    folder.mkdir()
    for file in Path(on_fake[1]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return ("--model", str(folder), *on_fake[2:])


def test_a_missing_template_is_announced_once(quire: Callable, on_fake: tuple[str, ...], tmp_path: Path) -> None:
    flags = (*copied(on_fake, tmp_path / "bare", "tokenizer_config.json", "chat_template", "no_template"), *GREEDY)
    ended = quire("generate", "a", *flags)
    assert (ended.out, ended.err.count("no chat template")) == ("bcdef\n", 1)
    assert "no chat template" not in quire("generate", "a", "--raw", *flags).err
    chat = quire("chat", *flags, stdin="a\n")
    assert (chat.code, "has no chat template" in chat.err) == (2, True)


def test_answers_have_a_cap_unless_it_is_lifted(quire: Callable, on_fake: tuple[str, ...], tmp_path: Path) -> None:
    wide = copied(
        on_fake, tmp_path / "wide", "config.json", '"max_position_embeddings": 1024', '"max_position_embeddings": 1300'
    )
    long = ("generate", "a", "--raw", *wide, "--temperature", "0", "--ignore-eos")
    assert quire(*long).err == "stopped after 1024 tokens (--max-tokens N; 0 = no cap)\n"
    full = quire(*long, "--max-tokens", "0").err
    assert full == "stopped after 1299 tokens: the context of 1300 tokens is full (--max-model-len)\n"
    assert "max_tokens" not in quire(*long, "--min-tokens", "1100").err  # no cap below what was asked for
    refused = quire(*long, "--max-tokens", "-1")
    assert (refused.code, "hint: 0 for an answer up to" in refused.err) == (2, True)


@pytest.mark.parametrize("prompt", ["caf\udce9", "\udcff\udcfe"])
def test_bytes_that_are_no_utf8_are_refused(quire: Callable, on_fake: tuple[str, ...], prompt: str) -> None:
    assert "error: the prompt is not UTF-8" in quire("generate", prompt, *on_fake).err
    ended = quire("generate", "-", *on_fake, stdin=prompt)
    assert (ended.code, "error: standard input is not UTF-8" in ended.err) == (2, True)


def test_utf8_that_was_read_as_ascii_is_mended(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("generate", "a\udcc3\udca4", "--raw", "--stats", *on_fake, *GREEDY)
    assert "3 prompt tokens" in ended.err


@pytest.mark.parametrize("words", [("generate", "a"), ("chat",)])
def test_ctrl_c_while_the_model_is_loaded(
    quire: Callable, on_fake: tuple[str, ...], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quire.engine.llm_engine.load_engine", interrupted)
    ended = quire(*words, *on_fake)
    assert (ended.code, ended.out, ended.err) == (130, "", "")
