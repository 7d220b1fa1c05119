"""Long lists: what counts as a token id, and what is said of the first item that is none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ConfigDict, TypeAdapter, ValidationError

from quire.server.list_fields import PromptField, Texts, TokenIds

STRICT = ConfigDict(strict=True)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a", "a"),
        (["a", "b"], ["a", "b"]),
        ([1, 2.0], [1, 2]),
        ([[1.0], [2, 3]], [[1], [2, 3]]),
        ([], []),
        ([[]], [[]]),
    ],
)
def test_prompts(given: Any, taken: Any) -> None:
    prompt = TypeAdapter(PromptField).validate_python(given)
    assert prompt == taken
    assert repr(prompt) == repr(taken)  # 1 and not 1.0


@pytest.mark.parametrize(
    ("given", "word"),
    [(1, "a text, token ids"), ({}, "a text"), (["a", 1], "str"), ([1, "a"], "str"), ([1, 1.5], "float"),
     ([True], "bool"), ([[1], "a"], "list"), ([[1], ["a"]], "str"), ([None], "NoneType"),
     ([float("inf")], "float"), ([[[1]]], "list")],
)  # fmt: skip
def test_wrong_prompts(given: Any, word: str) -> None:
    with pytest.raises(ValidationError, match=word) as refused:
        TypeAdapter(PromptField).validate_python(given)
    assert refused.value.error_count() == 1


def test_one_wrong_item_is_enough() -> None:
    for kind, items in ((TokenIds, [None] * 1000), (Texts, [1] * 1000)):
        with pytest.raises(ValidationError) as refused:
            TypeAdapter(kind, config=STRICT).validate_python(items)
        assert refused.value.error_count() == 1
