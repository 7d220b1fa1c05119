"""`quire devices`, `quire models`, `quire inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from quire.models import ARCHITECTURES


def test_devices_for_people_and_machines(quire: Callable) -> None:
    table = quire("devices")
    assert table.code == 0
    assert "reference    available\n" in table.out
    rows = {row["name"]: row for row in json.loads(quire("devices", "--json").out)}
    assert {"cpu", "cuda", "fake", "reference", "rocm", "torch", "tpu"} <= set(rows)
    assert rows["fake"]["report"]["available"]
    for row in rows.values():
        assert row["report"]["available"] or row["report"]["reason"]


def test_models(quire: Callable) -> None:
    assert quire("models").out.split() == sorted(ARCHITECTURES)
    assert json.loads(quire("models", "--json").out) == sorted(ARCHITECTURES)


def test_inspect_reads_no_weights(quire: Callable, on_fake: tuple[str, ...]) -> None:
    report = quire("inspect", *on_fake)  # the model has none
    assert report.code == 0
    assert report.out.startswith("LlamaForCausalLM (")
    found = json.loads(quire("inspect", *on_fake, "--json", "--plain").out)
    assert isinstance(found, dict)


def test_inspect_the_demo_model(quire: Callable) -> None:
    assert quire("inspect", "demo", "--device", "reference", "--memory-gib", "1").out.startswith(
        "Qwen3ForCausalLM (demo) for reference"
    )


@pytest.mark.parametrize(
    ("flag", "value"), [("--context", "0"), ("--memory-gib", "0"), ("--memory-gib", "nan"), ("--num-kv-blocks", "7")]
)
def test_inspect_refuses_what_it_cannot_use(quire: Callable, flag: str, value: str) -> None:
    ended = quire("inspect", "demo", "--device", "reference", flag, value)
    assert (ended.code, ended.out) == (2, "")
    assert f"{flag} {value}" in ended.err


def test_inspect_shows_one_rank(quire: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")
    assert "heads=2 of 4" in quire("inspect", "demo", "--device", "tpu", "-tp", "2").out


def test_one_device_is_shown_with_its_options(quire: Callable) -> None:
    shown = quire("devices", "cpu").out
    assert "--cpu-threads" in shown
    assert "a whole number from 1 to 1024; default: " in shown
    assert "it has no options" in quire("devices", "reference").out
    (found,) = json.loads(quire("devices", "fake", "--json").out)
    assert {spec["name"] for spec in found["options"]} == {"async_depth", "latency_ms", "memory_blocks", "faults"}
    unknown = quire("devices", "nope")
    assert (unknown.code, "'nope' is not installed" in unknown.err) == (2, True)
