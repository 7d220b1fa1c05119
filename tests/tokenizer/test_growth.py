"""A tokenizer may not be a bomb: rules that lengthen texts multiply."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers

from quire.errors import ModelError
from quire.tokenizer.growth import check_growth


def with_rules(*rules: normalizers.Normalizer) -> Tokenizer:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    backend.normalizer = normalizers.Sequence(list(rules))
    return backend


def test_ordinary_rules_pass() -> None:
    check_growth(Tokenizer(models.BPE({"a": 0}, [])), "x")
    check_growth(
        with_rules(
            normalizers.NFKC(),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
            normalizers.Replace(Regex(" {2,}"), " "),
        ),
        "x",
    )


@pytest.mark.parametrize(
    "rules",
    [
        [normalizers.Replace("l", "ll")] * 40,
        [normalizers.Replace("l", "l" * 2000)],
        [normalizers.Sequence([normalizers.Replace(Regex("."), "l" * 100)]), normalizers.Replace("l", "m" * 100)],
    ],
)
def test_rules_that_multiply_are_refused(rules: list[normalizers.Normalizer]) -> None:
    with pytest.raises(ModelError, match=r"x: its .* times as long"):
        check_growth(with_rules(*rules), "x")


def test_decoders_are_looked_at_too() -> None:
    backend = with_rules()
    backend.decoder = decoders.Sequence([decoders.Replace("a", "aa")] * 30)
    with pytest.raises(ModelError, match="times as long"):
        check_growth(backend, "x")
