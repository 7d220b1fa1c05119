"""Text that is searched for stop strings but not shown: special tokens that `skip_special_tokens` leaves out."""

from __future__ import annotations

from collections import deque


class HiddenText:
    """Remembers which characters of a text are hidden, while another class decides how many of them are certain."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, bool]] = deque()

    def add(self, num_chars: int, *, is_hidden: bool) -> None:
        """The next characters of the text."""
        if num_chars:
            self._spans.append((num_chars, is_hidden))

    def visible(self, text: str) -> str:
        """The visible characters of `text`, which follows on what was asked about before."""
        shown = []
        begin = 0
        while begin < len(text):
            num_chars, is_hidden = self._spans.popleft()
            end = min(begin + num_chars, len(text))
            if not is_hidden:
                shown.append(text[begin:end])
            if end - begin < num_chars:
                self._spans.appendleft((num_chars - (end - begin), is_hidden))
            begin = end
        return "".join(shown)
