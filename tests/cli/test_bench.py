"""`quire bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_core_stands_beside_its_budget(quire: Callable, tmp_path: Path) -> None:
    ended = quire("bench", "core", "--num-seqs", "8", "--steps", "5", "--json", str(tmp_path / "core.json"))
    assert ended.code == 0
    assert "% of the limit 1.0" in ended.out
    written = json.loads((tmp_path / "core.json").read_text())
    assert written["settings"]["num_seqs"] == 8
    for figure in written["figures"]:
        assert figure["share"] == pytest.approx(figure["value"] / figure["limit"])
    assert quire("bench", "core", "--num-seqs", "8", "--steps", "5", "--json", str(tmp_path / "no" / "file")).code == 2


@pytest.mark.parametrize("kind", ["latency", "throughput"])
def test_runs_of_a_model(quire: Callable, on_fake: tuple[str, ...], kind: str) -> None:
    size = ("--input-len", "20", "--output-len", "4", "--repeats", "1")
    ended = quire("bench", kind, *on_fake, *size, "--json", "-")
    assert ended.code == 0
    report = json.loads(ended.out)
    assert report["settings"]["output_len"] == 4
    assert all(set(figure) == {"name", "value", "unit", "limit", "limit_name", "share"} for figure in report["figures"])
    assert all(figure["value"] > 0 for figure in report["figures"])
    assert kind in quire("bench", kind, *on_fake, *size).out


def test_startup_is_of_fresh_processes(quire: Callable, on_fake: tuple[str, ...]) -> None:
    ended = quire("bench", "startup", *on_fake, "--max-model-len", "64", "--repeats", "2", "--json", "-")
    assert ended.code == 0
    figures = {figure["name"]: figure for figure in json.loads(ended.out)["figures"]}
    stages = [
        figures[f"start to {name}"]["value"] for name in ("interpreter and imports", "model loaded", "first token")
    ]
    assert 0 < stages[0] < stages[1] < stages[2]
    assert figures["peak memory"]["limit"] > 0
    assert figures["private memory at the end"]["value"] < figures["peak memory"]["value"]


def test_startup_that_fails_is_an_error(quire: Callable) -> None:
    ended = quire("bench", "startup", "--model", "demo", "--device", "nowhere", "--repeats", "1")
    assert ended.code == 2
    assert "a process that was to make one token failed" in ended.err


def test_a_result_that_cannot_be_written_is_said_before_the_run(
    quire: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    monkeypatch.setattr("quire.cli.bench._report", ran)
    monkeypatch.setattr("quire.testing.conform.run_conformance", ran)
    (tmp_path / "kept.json").write_text("old")
    for target in (tmp_path, tmp_path / "no" / "file", Path("/dev/full/x"), Path("a\0b")):
        for words in (["bench", "core"], ["conform", "-d", "fake"]):
            ended = quire(*words, "--json", str(target))
            assert (ended.code, "cannot be written" in ended.err) == (2, True)
    for target in (tmp_path / "kept.json", tmp_path / "new.json"):
        with pytest.raises(AssertionError, match="it ran"):
            quire("bench", "core", "--json", str(target))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept.json", "old")]
