"""An option is one field: what follows from it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ConfigError
from quire.options import (
    Count,
    Seconds,
    Share,
    Switch,
    Text,
    Texts,
    add_flags,
    aliases_of,
    check_options,
    option,
    options_table,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One of each kind."""

    name: str = option("x", "a name", Text(short={"abbreviated": "whole"}), short="-n")
    kind: str = option("a", "a|b", Text(choices=("a", "b")), is_listed=True)
    size: int | None = option(None, "a size", Count(1), aliases=("their_size",), default_text="the device's")
    share: float = option(0.5, "a share", Share("memory"))
    wait_s: float = option(1.0, "a time", Seconds(least=0.5, or_zero=True), flag="--wait", metavar="SECONDS")
    fast: bool = option(True, "go fast", Switch())
    loud: bool = option(False, "be loud", Switch())
    extra: Any = option(dict, "names and values", Texts(), flag="")

    def __post_init__(self) -> None:
        check_options(self)


def parsed(*words: str) -> Sample:
    parser = argparse.ArgumentParser()
    add_flags(parser, Sample)
    return Sample(**vars(parser.parse_args(words)))


def test_flags_are_the_fields() -> None:
    assert parsed() == Sample()
    words = [
        "-n",
        "abbreviated",
        "--kind",
        "b",
        "--their-size",
        "7",
        "--share",
        "1",
        "--wait",
        "0",
        "--no-fast",
        "--loud",
    ]
    assert parsed(*words) == Sample(name="whole", kind="b", size=7, share=1.0, wait_s=0.0, fast=False, loud=True)
    assert aliases_of(Sample) == {"their_size": "size"}


@pytest.mark.parametrize(
    ("field", "value", "because"),
    [
        ("name", "", "a text that is not empty"),
        ("name", None, "a text that is not empty"),
        ("name", 5, "a text that is not empty"),
        ("kind", "c", "not one Quire knows"),
        ("size", 0, "a count"),
        ("size", True, "a count"),
        ("size", 2**31, "a count"),
        ("size", "7", "a count"),
        ("share", 0, "a share of memory"),
        ("share", True, "a share of memory"),
        ("share", float("nan"), "a share of memory"),
        ("wait_s", 0.4, "a number of seconds"),
        ("wait_s", float("inf"), "a number of seconds"),
        ("wait_s", float("nan"), "a number of seconds"),
        ("fast", 1, "on or off"),
        ("extra", "a=b", "they have names"),
    ],
)
def test_a_wrong_value_is_refused_by_the_fields_name(field: str, value: Any, because: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}=.*\n  because: .*{because}.*\n  hint: ") as caught:
        Sample(**{field: value})
    assert caught.value.hint


def test_what_is_kept() -> None:
    kept = Sample(name=Path("/a/b"), share=1, extra={"threads": 4, "on": True})  # type: ignore[arg-type]
    assert (kept.name, kept.extra) == ("/a/b", {"threads": "4", "on": "true"})
    assert isinstance(kept.share, float)


def test_the_table_has_a_row_for_each_flag() -> None:
    rows = options_table(Sample)[2:]
    assert rows[0] == "| `-n`, `--name` | a name | x |"
    assert rows[1] == r"| `--kind` | a\|b | a |"
    assert rows[2] == "| `--size`, `--their-size` | a size | the device's |"
    assert rows[5] == "| `--no-fast` | go fast | on |"
    assert len(rows) == 7
