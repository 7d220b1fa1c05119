"""Names of tokens, and how many most likely ones are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.outputs import Logprob
from quire.server.logprobs import LOWEST, LogprobShapes
from quire.tokenizer import Tokenizer
from tests.byte_model import EOS, VOCAB_SIZE


@pytest.fixture(scope="module")
def shapes(byte_model: Path) -> LogprobShapes:
    return LogprobShapes(Tokenizer.from_folder(byte_model))


def entry(*token_ids: int, drawn_rank: int = 1) -> dict[int, Logprob]:
    """The drawn token, then others, ever less likely."""
    return {token: Logprob(-float(place), drawn_rank if place == 0 else place) for place, token in enumerate(token_ids)}


def test_parts_of_characters_do_not_share_a_name(shapes: LogprobShapes) -> None:
    place = entry(0xC3, 0xC4, 0xE2, EOS, VOCAB_SIZE - 1)
    lists = shapes.completion([0xC3], [place], [7], 5)
    assert lists is not None
    assert lists["tokens"] == ["\ufffd"]
    assert list(lists["top_logprobs"][0]) == [
        "\ufffd",
        "bytes:\\xc4",
        "bytes:\\xe2",
        "<|end|>",
        f"token_id:{VOCAB_SIZE - 1}",
    ]
    chat = shapes.chat([0xC3], [place], 5)
    assert chat is not None
    (item,) = chat["content"]
    assert item["top_logprobs"][0]["token"] == item["token"] == "bytes:\\xc3"
    assert item["bytes"] == [0xC3]


def test_two_tokens_of_one_text_are_two_entries() -> None:
    class Twins:
        token_bytes = (b"a", b"a", b"b")

    lists = LogprobShapes(Twins()).completion([1], [entry(1, 0, 2)], [0], 3)  # type: ignore[arg-type]
    assert lists is not None
    assert lists["top_logprobs"] == [{"a": 0.0, "token_id:0": -1.0, "b": -2.0}]


def test_a_space_that_was_put_before_the_text_is_not_in_the_name(shapes: LogprobShapes) -> None:
    class Words:
        token_bytes = (b" a", b"a", b" b")

    words = LogprobShapes(Words())  # type: ignore[arg-type]
    for text, names in (("a b", ["a", " b"]), (" a b", [" a", " b"])):
        lists = words.completion([0, 2], [entry(0, 1), entry(2, 0)], [0, 1], 2, text)
        assert lists is not None
        assert lists["tokens"] == names
        assert [next(iter(top)) for top in lists["top_logprobs"]] == names
        assert [len(top) for top in lists["top_logprobs"]] == [2, 2]


def test_a_drawn_token_that_ties_with_the_last_does_not_make_one_more(shapes: LogprobShapes) -> None:
    equal = {9: Logprob(-1.0, 1), 1: Logprob(-1.0, 1), 2: Logprob(-1.0, 2)}  # drawn: 9; asked for: 2
    chat = shapes.chat([9], [equal], 2)
    assert chat is not None
    assert [top["bytes"] for top in chat["content"][0]["top_logprobs"]] == [[1], [2]]
    lists = shapes.completion([9], [equal], [0], 2)
    assert lists is not None
    assert len(lists["top_logprobs"][0]) == 3


def test_more_logprobs_than_asked_for_are_cut(shapes: LogprobShapes) -> None:
    drawn_second = {97: Logprob(-1.0, 2), 98: Logprob(-0.5, 1), 99: Logprob(-2.0, 3)}
    lists = shapes.completion([97], [drawn_second], [0], 1)
    assert lists is not None
    assert list(lists["top_logprobs"][0]) == ["a", "b"]


def test_minus_infinity_has_a_number(shapes: LogprobShapes) -> None:
    lists = shapes.completion([97], [{97: Logprob(float("-inf"), 3)}], [0], 0)
    assert lists is not None
    assert lists["token_logprobs"] == [LOWEST]


def test_tokens_as_ids(shapes: LogprobShapes) -> None:
    lists = shapes.naming_ids(True).completion([97], [entry(97, 98)], [0], 2)
    assert lists is not None
    assert (lists["tokens"], list(lists["top_logprobs"][0])) == (["token_id:97"], ["token_id:97", "token_id:98"])
