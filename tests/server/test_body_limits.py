"""What is counted in JSON text, in one piece or in many."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from quire.errors import RequestError
from quire.server.body_limits import BodyLimits, BodyScanner

SMALL = BodyLimits(
    max_bytes=1 << 20, max_values=8, max_strings=6, max_containers=5, max_escapes=10, max_depth=3, max_digits=12
)


def scan(text: str, piece_bytes: int, limits: BodyLimits = SMALL) -> None:
    scanner, content = BodyScanner(limits), text.encode()
    for start in range(0, len(content), piece_bytes):
        scanner.feed(content[start : start + piece_bytes])


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps([1] * 9),
        json.dumps({"a": ",,,,,,,,,,,,,,,,[[[[[[[[{{{{{{{{"}),
        json.dumps({"a": 'x",[[[[[[[' + chr(92) + '",{'}),
        json.dumps({"a" + chr(92): "b", "c": chr(92) * 4, "d": [1, 2]}),
        json.dumps([[1], [2], [3], [4]]),
        json.dumps(["a", "b", "c", "d", "e", "f"]),
        json.dumps(123456789012),
    ],
)
def test_within_the_limits(text: str, piece_bytes: int) -> None:
    scan(text, piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("text", "word"),
    [
        (json.dumps([1] * 10), "values"),
        (json.dumps(["a", "b", "c", "d", "e", "f", "g"]), "strings"),
        (json.dumps({"\\": ["\\\\", '"', 1, 2, 3, 4, 5, 6, 7, 8, 9]}), "values"),
        (json.dumps(["\n" * 11]), "escaped"),
        (json.dumps([[], [], [], [], []]), "lists and objects"),
        (json.dumps([[[[]]]]), "nested"),
        ("[" * 100, "nested"),
    ],
)
def test_above_a_limit(text: str, word: str, piece_bytes: int) -> None:
    with pytest.raises(RequestError, match=word):
        scan(text, piece_bytes)


def test_long_numbers() -> None:
    scan(json.dumps("1" * 100), 1000)
    with pytest.raises(RequestError, match="number"):
        scan("1234567890123", 1000)


def test_a_long_model_gets_more_room() -> None:
    short, long = BodyLimits.for_model(2048), BodyLimits.for_model(1 << 20)
    assert short.max_bytes >= 4 << 20
    assert long.max_bytes > 8 * (1 << 20)
    ids = json.dumps([123456] * (1 << 18))
    scan(ids, 1 << 14, replace(long, max_digits=12))
    with pytest.raises(RequestError, match="values"):
        scan(ids, 1 << 14, short)
