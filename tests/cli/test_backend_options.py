"""Options of backends as flags."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quire.cli import backend_options
from quire.cli.engine_args import config_from_args
from quire.cli.main import build_parser, parse
from quire.errors import ConfigError


def config_of(*words: str) -> Any:
    return config_from_args(parse(["generate", "a", *words]))


@pytest.mark.parametrize("words", [["--fake-latency-ms", "5"], ["--fake-latency-ms=5"], ["--fake-latency_ms", "5"]])
def test_a_flag_becomes_an_option_of_its_device(words: list[str]) -> None:
    config = config_of("--device", "fake", *words)
    assert (config.device, config.device_options) == ("fake", {"latency_ms": "5"})


def test_both_kinds_of_flags_together() -> None:
    config = config_of("--device", "fake", "--device-option", "async_depth=1", "--fake-latency-ms", "-5")
    assert config.device_options == {"async_depth": "1", "latency_ms": "-5"}


def test_auto_is_resolved_before_its_options_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.device.registry.resolve_device", lambda name: SimpleNamespace(name="cpu"))
    config = config_of("--cpu-threads", "2")
    assert (config.device, config.device_options) == ("cpu", {"threads": "2"})
    with pytest.raises(ConfigError, match=r"option of device fake\n.*the device is cpu, chosen by auto"):
        config_of("--fake-latency-ms", "2")


def test_the_longest_name_and_the_parsers_own_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.device.registry.device_names", lambda: ("max", "npu", "npu-x"))
    words = ["generate", "a", "--npu-x-size", "1", "--max-tokens", "3", "--max-heat", "9", "--npu-=", "--", "--npu-a"]
    rest, found = backend_options.split_backend_options(words, build_parser("generate"))
    assert [(option.device, option.key, option.value) for option in found] == [
        ("npu-x", "size", "1"),
        ("max", "heat", "9"),
    ]
    assert rest == ["generate", "a", "--max-tokens", "3", "--npu-=", "--", "--npu-a"]


def test_backends_are_looked_up_only_for_unknown_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("the backends were listed")

    monkeypatch.setattr("quire.device.registry.device_names", fail)
    assert parse(["generate", "a", "--max-tokens=2", "--raw"]).max_tokens == 2
