"""Finds stop strings in text that arrives in pieces, and holds back what may be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringMatcher:
    """Passes text through until a stop string is complete.

    The first stop string to be complete counts, the longest of those that end at the same character, so the outcome
    does not depend on how the text was cut into pieces.

    Attributes:
        matched: the stop string found, or None.
    """

    def __init__(self, stops: Sequence[str], include_match: bool) -> None:
        self._stops = tuple(stops)
        self._include_match = include_match
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Text that may be shown after this piece; nothing after a match, and the match itself only if asked for."""
        if self.matched is not None:
            return ""
        self._held += text
        found = self._find()
        if found is not None:
            start, self.matched = found
            shown = self._held[: start + len(self.matched)] if self._include_match else self._held[:start]
            self._held = ""
            return shown
        num_kept = self._longest_beginning()
        shown, self._held = self._held[: len(self._held) - num_kept], self._held[len(self._held) - num_kept :]
        return shown

    def flush(self) -> str:
        """The text held back, when no more comes."""
        held, self._held = self._held, ""
        return held

    def _find(self) -> tuple[int, str] | None:
        """Start and string of the match that ends first."""
        starts = ((self._held.find(stop), stop) for stop in self._stops)
        return min(
            (match for match in starts if match[0] >= 0),
            key=lambda match: (match[0] + len(match[1]), match[0]),
            default=None,
        )

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
