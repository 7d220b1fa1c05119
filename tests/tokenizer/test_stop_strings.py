from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.tokenizer.stop_strings import StopStringMatcher


def shown(stops: list[str], pieces: list[str], include: bool = False) -> tuple[str, str | None]:
    matcher = StopStringMatcher(stops, include)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.flush(), matcher.matched


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["b", "abc"], "xabc", ("xa", "b")),  # complete first
        (["bc", "abc"], "xabc", ("x", "abc")),  # both complete at c: the longer one
        (["aab"], "aaab", ("a", "aab")),
        (["end"], "the en", ("the en", None)),
        ([], "anything", ("anything", None)),
    ],
)
def test_the_first_to_be_complete_counts(stops: list[str], text: str, expected: tuple[str, str | None]) -> None:
    assert shown(stops, [text]) == expected
    assert shown(stops, list(text)) == expected


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("abc", max_size=5), max_size=8),
    st.booleans(),
)
def test_the_cut_into_pieces_does_not_matter(stops: list[str], pieces: list[str], include: bool) -> None:
    assert shown(stops, pieces, include) == shown(stops, list("".join(pieces)), include)


def test_only_a_possible_beginning_waits() -> None:
    matcher = StopStringMatcher(["<end>"], include_match=False)
    assert [matcher.push(piece) for piece in ("a<", "e", "x<", "end", "!")] == ["a", "", "<ex", "", "<end!"]
    assert [matcher.push(piece) for piece in ("b<en", "d>c", "d")] == ["b", "", ""]
    assert matcher.matched == "<end>"


def expected(stops: list[str], text: str) -> tuple[int, str] | None:
    """(end, string) of the match that is complete first, the longest of those that end there; by looking everywhere."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


def test_random_stops_in_random_texts_in_random_pieces() -> None:
    dice = random.Random(5)
    for _ in range(4000):
        letters = dice.choice(("ab", "abc", "aé🙂"))
        stops = ["".join(dice.choices(letters, k=dice.randrange(1, 7))) for _ in range(dice.randrange(1, 6))]
        text = "".join(dice.choices(letters, k=30))
        matcher = StopStringMatcher(stops, include_match=False)
        shown, rest = "", text
        while rest:
            size = dice.randrange(1, 5)
            shown += matcher.push(rest[:size])
            seen = text[: len(text) - len(rest) + size]
            match = expected(stops, seen)
            if match is None:  # nothing is held back that cannot be the beginning of a stop string
                held = seen[len(shown) :]
                assert seen == shown + held
                assert not held or any(stop.startswith(held) for stop in stops)
                assert not any(
                    stop.startswith(seen[-size:])
                    for stop in stops
                    for size in range(len(held) + 1, min(len(seen), len(stop)) + 1)
                )
            rest = rest[size:]
        match = expected(stops, text)
        if match is None:
            assert (shown + matcher.flush(), matcher.matched) == (text, None)
        else:
            end, stop = match
            assert (shown, matcher.matched) == (text[: end - len(stop)], stop)
