"""`quire devices`, `quire models`, `quire inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable

from quire.models import ARCHITECTURES


def test_devices_for_people_and_machines(quire: Callable) -> None:
    table = quire("devices")
    assert table.code == 0
    assert "reference    available\n" in table.out
    rows = {row["name"]: row for row in json.loads(quire("devices", "--json").out)}
    assert {"cpu", "reference", "fake"} <= set(rows)
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
