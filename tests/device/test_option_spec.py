"""Options of a backend as data: what is taken, what is refused, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.device import OptionSpec, parse_options
from quire.errors import ConfigError

SPECS = (
    OptionSpec(name="threads", type="integer", help="threads", default="all", least=1, most=64),
    OptionSpec(name="share", type="number", help="a share", default="0.5", least=0, most=1),
    OptionSpec(name="kernels", type="text", help="which", default="best", choices=("fast", "slow")),
    OptionSpec(name="label", type="text", help="any text", default="none"),
    OptionSpec(name="folder", type="path", help="where", default="nowhere"),
    OptionSpec(name="check", type="switch", help="check it", default="false"),
)


def test_values_have_their_types() -> None:
    given = {"threads": "4", "share": "0.25", "kernels": "slow", "label": "x y", "folder": "~/a", "check": "true"}
    assert parse_options("chip", SPECS, given) == {
        "threads": 4,
        "share": 0.25,
        "kernels": "slow",
        "label": "x y",
        "folder": Path.home() / "a",
        "check": True,
    }
    assert parse_options("chip", SPECS, {}) == {}


@pytest.mark.parametrize(
    ("name", "text", "because"),
    [
        ("threads", "0", "a whole number from 1 to 64"),
        ("threads", "65", "a whole number from 1 to 64"),
        ("threads", "2.5", "a whole number from 1 to 64"),
        ("threads", "", "a whole number from 1 to 64"),
        ("share", "-0.1", "a number from 0 to 1"),
        ("share", "nan", "a number from 0 to 1"),
        ("share", "inf", "a number from 0 to 1"),
        ("kernels", "medium", "one of fast, slow"),
        ("label", "", "a text that is not empty"),
        ("folder", "", "a path"),
        ("check", "yes", "true or false"),
    ],
)
def test_a_value_that_means_nothing_is_refused(name: str, text: str, because: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options("chip", SPECS, {name: text})
    assert caught.value.what == f"device option {name}={text}"
    assert caught.value.because == f"it is {because}"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("specs", "name", "because", "hint"),
    [
        (SPECS, "thread", "it has threads, share", "threads"),
        (SPECS, "xyz", "it has threads, share", "`quire devices chip` lists them"),
        ((), "threads", "it has none at all", "`quire devices chip` lists them"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(specs: Any, name: str, because: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"device chip has no option {name}") as caught:
        parse_options("chip", specs, {name: "1"})
    assert caught.value.because.startswith(because)
    assert caught.value.hint == hint
