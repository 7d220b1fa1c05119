"""Reading what a person says: one line, several, or a pasted block."""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from quire.cli.standard_streams import checked_text

PROMPT, MORE = "> ", "... "
QUOTES = '"""'
_PASTE_S = 0.03
"""Without readline: lines that are there so soon after another one were pasted with it."""

_ALARM_S = 0.1


class LineInput:
    """Standard input as messages. Line editing, history and pasted lines in one piece are readline's."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()
        self._shows_prompt = sys.stdout.isatty()  # else answers go to a file, and prompts to the person
        self._marks_paste = self.is_terminal and self._shows_prompt and _use_readline()

    def read(self) -> str | None:
        """The next message without blanks at its end; None at the end of input.

        On a terminal a line that ends with a backslash goes on, and three quotes begin and end a block. Elsewhere
        each line is a message. Raises: KeyboardInterrupt for Ctrl-C, RequestError for bytes that are not UTF-8.
        """
        if not self.is_terminal:
            line = sys.stdin.readline()
            return checked_text(line, "the line").rstrip() if line else None
        try:
            text = self._lines(PROMPT)
            if text.lstrip().startswith(QUOTES):
                return checked_text(self._block(text.lstrip().removeprefix(QUOTES)), "the text").rstrip()
            while text.endswith("\\"):
                text = f"{text[:-1]}\n{self._lines(MORE)}"
        except EOFError:
            return None
        return checked_text(text, "the line").rstrip()

    def _block(self, text: str) -> str:
        """What is before the closing quotes; the end of input closes it too."""
        while not text.rstrip().endswith(QUOTES):
            try:
                text = f"{text}\n{self._lines(MORE)}"
            except EOFError:
                break
        return text.rstrip().removesuffix(QUOTES)

    def _lines(self, prompt: str) -> str:
        """One line, and those that were pasted with it."""
        if not self._shows_prompt:
            print(prompt, end="", file=sys.stderr, flush=True)
        with _signals_seen():
            lines = [input(prompt if self._shows_prompt else "")]
            while not self._marks_paste and select.select([sys.stdin], [], [], _PASTE_S)[0]:
                try:
                    lines.append(input(""))
                except EOFError:
                    break
        return "\n".join(lines)


@contextmanager
def _signals_seen() -> Iterator[None]:
    """Within this, a Ctrl-C is acted on within a tenth of a second.

    Python's readline looks for signals only where one interrupts its waiting: one that comes just before it waits,
    as right after the prompt appears, would be seen at the next key. An alarm that does nothing interrupts it.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _ALARM_S, _ALARM_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _use_readline() -> bool:
    """Whether `input` has readline now, which tells pasted lines from typed ones."""
    try:
        import readline
    except ImportError:  # a Python without it
        return False
    if "libedit" in (readline.__doc__ or ""):  # it stands in for readline on some systems, and does not
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
