"""Finds stop strings in text that arrives in pieces, and holds back what may be the beginning of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class StopStringMatcher:
    """Passes text through until a stop string is complete.

    The first stop string to be complete counts, the longest of those that end at the same character, so the outcome
    does not depend on how the text was cut into pieces. A character costs the same however many stop strings there are.

    Attributes:
        matched: the stop string found, or None.
    """

    def __init__(self, stops: Sequence[str], include_match: bool) -> None:
        self._automaton = _automaton(tuple(stops))
        self._include_match = include_match
        self._held = ""
        self._state = 0
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Text that may be shown after this piece; nothing after a match, and the match itself only if asked for."""
        if self.matched is not None:
            return ""
        automaton, state = self._automaton, self._state
        for index, char in enumerate(text):
            state = automaton.after(state, char)
            found = automaton.ends[state]
            if found is not None:
                self.matched = found
                seen = self._held + text[: index + 1]
                self._held = ""
                return seen if self._include_match else seen[: len(seen) - len(found)]
        self._state = state
        seen = self._held + text
        num_shown = len(seen) - automaton.depths[state]
        self._held = seen[num_shown:]
        return seen[:num_shown]

    def flush(self) -> str:
        """The text held back, when no more comes."""
        held, self._held, self._state = self._held, "", 0
        return held


class _Automaton:
    """All beginnings of stop strings as states; the state after a text is the longest that the text ends with.

    Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic search", 1975.

    Attributes:
        depths: characters of each state's beginning. ends: the longest stop string that each ends with, or None.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._next: dict[tuple[int, str], int] = {}
        self.depths, self.ends = [0], [None]  # type: list[int], list[str | None]
        for stop in stops:
            self._add(stop)
        self._shorter = [0] * len(self.depths)
        self._link()

    def after(self, state: int, char: str) -> int:
        """The state after one more character."""
        following = self._next.get((state, char))
        while following is None and state:
            state = self._shorter[state]
            following = self._next.get((state, char))
        return following or 0

    def _add(self, stop: str) -> None:
        state = 0
        for char in stop:
            following = self._next.get((state, char))
            if following is None:
                following = self._next[state, char] = len(self.depths)
                self.depths.append(self.depths[state] + 1)
                self.ends.append(None)
            state = following
        self.ends[state] = stop

    def _link(self) -> None:
        """Of each state, the longest one that it ends with, shorter ones first."""
        edges: dict[int, list[tuple[str, int]]] = {}
        for (state, char), following in self._next.items():
            edges.setdefault(state, []).append((char, following))
        waiting = deque([0])
        while waiting:
            state = waiting.popleft()
            for char, following in edges.get(state, ()):
                if state:
                    self._shorter[following] = self.after(self._shorter[state], char)
                self.ends[following] = self.ends[following] or self.ends[self._shorter[following]]
                waiting.append(following)


@lru_cache(maxsize=16)
def _automaton(stops: tuple[str, ...]) -> _Automaton:
    """Shared by the sequences of a request, and by requests with the same stop strings."""
    return _Automaton(stops)
