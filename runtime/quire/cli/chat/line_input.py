"""Reading what a person says: one line, several, or a pasted block."""

from __future__ import annotations

import select
import sys

from quire.cli.standard_streams import checked_text

PROMPT, MORE = "> ", "... "
QUOTES = '"""'
_PASTE_S = 0.03
"""Without readline: lines that are there so soon after another one were pasted with it."""


class LineInput:
    """Standard input as messages. Line editing, history and pasted lines in one piece are readline's."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()
        self._marks_paste = self.is_terminal and _use_readline()

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
        lines = [input(prompt)]
        while not self._marks_paste and select.select([sys.stdin], [], [], _PASTE_S)[0]:
            try:
                lines.append(input(""))
            except EOFError:
                break
        return "\n".join(lines)


def _use_readline() -> bool:
    """Whether `input` has readline now, which tells pasted lines from typed ones."""
    try:
        import readline
    except ImportError:  # a Python without it
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True
