from __future__ import annotations

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
