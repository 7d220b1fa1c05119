"""JSON of a model's files: what is wrong is said with file, line and column."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.files import parse_json, parse_object, read_json_object


def test_a_missing_file_is_an_empty_object(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "absent.json") == {}
    assert read_json_object(None) == {}


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ("", "line 1, column 1"),
        ("[" * 200_000, "nested too deep"),
        ('{"a": ' * 200_000, "nested too deep"),
        ("9" * 10_000, "digits"),
        (b'"\xff"', "byte 1 is no UTF-8"),
        ('{"a": ["\\ud83d"]}', "half of a surrogate pair"),
        (b'"\\uDE42"', "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_parsed_is_named_with_its_place(text: str | bytes, because: str) -> None:
    with pytest.raises(ModelError, match=r"x\.json") as refusal:
        parse_json(text, "x.json")
    assert because in refusal.value.because


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json('"\\ud83d\\ude42"', "x.json") == "🙂"


@pytest.mark.parametrize("text", ["[]", "null", "1", '"a"'])
def test_another_value_than_an_object_is_named(text: str) -> None:
    with pytest.raises(ModelError, match=r"x\.json does not hold a JSON object"):
        parse_object(text, "x.json")


def test_of_a_name_that_is_there_twice_the_last_holds_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse_json('{"a": 1, "b": 2, "a": 3}', "x.json") == {"a": 3, "b": 2}
    assert "x.json: 'a' is there twice" in caplog.text
    with pytest.raises(ModelError, match="'a' is there twice"):
        parse_json('[{"a": 1, "a": 3}]', "x.json", unique_names=True)
