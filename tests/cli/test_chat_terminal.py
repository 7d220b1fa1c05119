"""`quire chat` and `quire generate` at a terminal, as a person sees them: keys in, screen out."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROMPT = r"\n(\x1b\[\?2004h)?> $"
CODE = "import sys; from quire.cli.main import main; sys.exit(main())"


class Terminal:
    """A process of `quire` on a terminal of its own."""

    def __init__(self, code: str, *words: str) -> None:
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-c", code, *words])

    def keys(self, text: str) -> None:
        os.write(self._file, text.encode())

    def until(self, pattern: str, timeout_s: float = 30.0) -> str:
        """What is on the screen until the pattern is; the process's last words where it ends before."""
        shown, end_s = "", time.monotonic() + timeout_s
        while not re.search(pattern, shown.replace("\r", "")):
            assert time.monotonic() < end_s, shown
            if select.select([self._file], [], [], 0.1)[0]:
                try:
                    shown += os.read(self._file, 65536).decode(errors="replace")
                except OSError:
                    break
        return shown.replace("\r", "")

    def code(self) -> int:
        self.until("(?!)")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(on_fake: tuple[str, ...]) -> Iterator[Callable[..., Terminal]]:
    """terminal(command, *words): on the fake device, whose answers are "?@ABC..."."""
    opened: list[Terminal] = []

    def start(command: str, *words: str, code: str = CODE) -> Terminal:
        opened.append(Terminal(code, command, *words, *on_fake, "--temperature", "0"))
        return opened[-1]

    yield start
    for one in opened:
        try:
            os.kill(one.pid, signal.SIGKILL)
            os.waitpid(one.pid, 0)
        except (ProcessLookupError, ChildProcessError):  # it has ended
            continue


def saved_questions(one: Terminal, folder: Path) -> list[str]:
    one.keys(f"/save {folder}/talk\n")
    one.until("saved to .*" + PROMPT)
    one.keys("/exit\n")
    assert one.code() == 0
    return [m["content"] for m in json.loads((folder / "talk").read_text())["messages"] if m["role"] == "user"]


def test_several_lines_are_one_message(terminal: Callable, tmp_path: Path) -> None:
    one = terminal("chat", "--max-tokens", "2")
    one.until(PROMPT)
    for keys in ("a\\\nb\n", '"""c\n\nd"""\n', "\x1b[200~e\nf\x1b[201~\n", "g\nh\n"):
        one.keys(keys)
        one.until("stopped after 2 tokens.*" + PROMPT)
    assert saved_questions(one, tmp_path) == ["a\nb", "c\n\nd", "e\nf", "g", "h"]


def test_ctrl_c_clears_the_line_and_ctrl_d_leaves(terminal: Callable) -> None:
    one = terminal("chat", "--max-tokens", "2")
    one.until(PROMPT)
    one.keys("half a quest")
    one.until("quest")
    one.keys("\x03")
    assert "/exit or Ctrl-D leaves" in one.until("leaves.*" + PROMPT)
    one.keys("\n\na\n")
    assert "?@\n" in one.until("stopped after.*" + PROMPT)
    one.keys('"""b\n')
    one.until(r"\.\.\. ")
    one.keys("\x03")
    one.until("leaves.*" + PROMPT)
    one.keys("\x04")
    assert one.code() == 0


def test_ctrl_c_ends_the_answer_and_what_was_said_stays(terminal: Callable, tmp_path: Path) -> None:
    one = terminal("chat", "--fake-latency-ms", "20", "--ignore-eos")
    one.until(PROMPT)
    one.keys("first\n")
    one.until(r"\?@A")
    one.keys("\x03")
    one.until(PROMPT)
    one.keys("/set max_tokens 2\n")
    one.until(PROMPT)
    one.keys("second\n")
    assert "?@\n" in one.until("stopped after 2 tokens.*" + PROMPT)
    assert saved_questions(one, tmp_path) == ["first", "second"]


def test_ctrl_c_held_down_costs_no_conversation(terminal: Callable, tmp_path: Path) -> None:
    """As a keyboard repeats it: another one while the first is being dealt with."""
    one = terminal("chat", "--fake-latency-ms", "20", "--ignore-eos")
    one.until(PROMPT)
    one.keys("/set max_tokens 2\n")
    one.until(PROMPT)
    one.keys("first\n")
    one.until("stopped after 2 tokens.*" + PROMPT)
    one.keys("/set max_tokens 900\n")
    one.until(PROMPT)
    one.keys("second\n")
    one.until(r"\?@A")
    for _ in range(40):
        os.kill(one.pid, signal.SIGINT)
        time.sleep(0.003)
    one.keys("\n/set max_tokens 2\n")
    one.until("max_tokens.*" + PROMPT)
    one.keys("third\n")
    one.until("stopped after 2 tokens.*" + PROMPT)
    questions = saved_questions(one, tmp_path)
    assert (questions[0], questions[-1]) == ("first", "third")


def test_answers_alone_go_to_a_file(terminal: Callable, tmp_path: Path) -> None:
    one = terminal("chat", "--max-tokens", "2", code=f"import sys; sys.stdout = open('{tmp_path}/out', 'w'); {CODE}")
    one.until("> $")
    one.keys("a\n")
    one.until("stopped after 2 tokens.*\n> $")
    one.keys("\x04")
    assert one.code() == 0
    assert (tmp_path / "out").read_text() == "?@\n"


def test_control_characters_are_shown_and_not_sent(terminal: Callable) -> None:
    one = terminal("generate", "\x18", "--raw", "--max-tokens", "4")  # the model counts on: 19 1a 1b 1c
    shown = one.until("stopped after")
    assert "\u2419\u241a\u241b\u241c" in shown
    assert not re.search("[\x19\x1a\x1b\x1c]", shown)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_signals_end_an_answer_without_a_traceback(terminal: Callable, number: int, code: int, command: str) -> None:
    one = terminal(command, *(["a"] if command == "generate" else []), "--fake-latency-ms", "20", "--ignore-eos")
    if command == "chat":
        one.until(PROMPT)
        one.keys("a\n")
    shown = one.until(r"\?@AB")
    os.kill(one.pid, number)
    if command == "chat" and number == signal.SIGINT:
        one.until(PROMPT)
        one.keys("/bye\n")
        code = 0
    assert one.code() == code
    assert "Traceback" not in shown
